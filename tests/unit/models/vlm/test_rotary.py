import pytest
import torch
from transformers import Qwen2_5_VLTextConfig, Qwen3VLTextConfig

from models.vlm.family import Family
from models.vlm.qwen2_5 import QWEN2_5
from models.vlm.qwen3 import QWEN3
from models.vlm.rotary import ExactRotary

CASES = [
    (QWEN2_5, Qwen2_5_VLTextConfig, [6, 5, 5]),
    (QWEN2_5, Qwen2_5_VLTextConfig, [1] * 16),
    (QWEN3, Qwen3VLTextConfig, [6, 5, 5]),
    (QWEN3, Qwen3VLTextConfig, [8, 5, 3]),
]


def make_config(config_class: type, section: list[int]) -> object:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": section}
    return config_class(hidden_size=64, num_attention_heads=2, head_dim=32, rope_parameters=rope)


@pytest.mark.parametrize(("family", "config_class", "section"), CASES)
def test_rotary_is_hugging_faces_at_small_positions(
    family: Family, config_class: type, section: list[int]
) -> None:
    config = make_config(config_class, section)
    positions = torch.randint(0, 50, (3, 1, 40), generator=torch.Generator().manual_seed(0))
    x = torch.zeros(1)
    expected = family.text_rotary_class(config)(x, positions)
    for ours, theirs in zip(family.rotary(config)(x, positions), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "config_class", "section"), CASES)
@pytest.mark.parametrize("distance", [-7, 40, 10**7])
def test_a_shift_on_all_axes_is_one_turn_a_frequency(
    family: Family, config_class: type, section: list[int], distance: int
) -> None:
    """So the engine moves keys without knowing which axis a frequency follows."""
    rotary = family.rotary(make_config(config_class, section))
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(50, 90, (3, 1, 40), generator=generator)  # the axes apart, as in a frame
    key = torch.randn(40, 16, 2, generator=generator).double()

    def rotated(at: torch.Tensor) -> torch.Tensor:
        cos, sin = (table[0, :, :16] for table in rotary(key, at))
        return torch.view_as_complex(key) * torch.complex(cos, sin)

    turn = torch.polar(torch.ones(16).double(), rotary.inv_freq * distance)
    torch.testing.assert_close(rotated(positions) * turn, rotated(positions + distance), atol=1e-7, rtol=0)


def test_a_section_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="mrope_section"):
        QWEN2_5.axis_of_freq([6, 5, 4], 16)
    with pytest.raises(ValueError, match="axis_of_freq"):
        ExactRotary(torch.ones(4), [0, 1, 2], 1.0)
