"""What inference runs against the tower as it is trained and stored."""

import copy
from typing import Any

import pytest
import torch
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLMLP

from models.vlm import vision_tower
from models.vlm.inference_tower import GatedMLP, for_inference


def make_mlp(intermediate_size: int, dtype: torch.dtype, bias: bool = True) -> Any:
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(hidden_size=32, intermediate_size=intermediate_size)
    return Qwen2_5_VLMLP(config, bias=bias).to(dtype).requires_grad_(False)


def test_the_changed_tower_gives_the_same_tokens(hf_model: Any) -> None:
    tower, grids = hf_model.model.visual, ((2, 6), (4, 2))
    patches = torch.randn(20, 3 * tower.config.patch_size**2)
    with torch.no_grad():
        expected = vision_tower.visual_tokens(tower, patches, grids)
    changed = for_inference(copy.deepcopy(tower))
    found = vision_tower.visual_tokens(changed, patches, grids)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_columns_of_zeros_change_nothing(bias: bool) -> None:
    mlp = make_mlp(100, torch.bfloat16, bias)
    padded = GatedMLP(mlp)
    assert padded.down.weight.shape == (32, 128)
    assert padded.gate_up.weight.shape == (256, 32)
    hidden = torch.randn(7, 32)
    torch.testing.assert_close(padded(hidden.bfloat16()), mlp(hidden.bfloat16()), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(padded.float()(hidden), mlp.float()(hidden), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("intermediate_size", "dtype"), [(100, torch.float32), (104, torch.bfloat16)])
def test_columns_are_added_only_where_they_help(intermediate_size: int, dtype: torch.dtype) -> None:
    assert GatedMLP(make_mlp(intermediate_size, dtype)).down.weight.shape == (32, intermediate_size)
