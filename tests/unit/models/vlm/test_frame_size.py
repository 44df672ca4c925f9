import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from models.data.place.layout import PLACE_HEIGHT, PLACE_WIDTH
from models.training.recipes import tiny
from models.vlm.frame_size import FrameBudget
from models.vlm.pixels import PixelFormat

SMALL = FrameBudget(min_pixels=28 * 28, max_pixels=112 * 84)


@pytest.mark.parametrize(
    "budget",
    [
        SMALL,
        FrameBudget(min_pixels=3136, max_pixels=100_352),
        FrameBudget(min_pixels=4096, max_pixels=131_072, patch_size=16),  # Qwen3-VL's
    ],
)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_fit_is_the_processors_resize_within_the_budget(budget: FrameBudget, height: int, width: int) -> None:
    try:
        fitted = budget.fit(height, width)
    except ValueError:
        assert max(height, width) > 10 * min(height, width)  # only the absurdly thin are refused
        return
    assert fitted == smart_resize(height, width, budget.unit, budget.min_pixels, budget.max_pixels)
    assert fitted[0] % budget.unit == 0 and fitted[1] % budget.unit == 0
    assert fitted[0] * fitted[1] <= budget.max_pixels
    assert budget.fit(*fitted) == fitted  # the simulator and the ingest may fit twice


def test_a_small_budget_of_a_4_to_3_camera_is_twelve_tokens() -> None:
    assert SMALL.fit(480, 640) == (84, 112)
    assert SMALL.grid(84, 112) == (3, 4)
    assert SMALL.num_tokens(84, 112) == 12


def test_a_simulated_camera_is_brought_to_the_size_that_the_recipe_learns_at() -> None:
    budget = tiny().budget
    assert budget.fit(4 * PLACE_HEIGHT, 4 * PLACE_WIDTH) == (PLACE_HEIGHT, PLACE_WIDTH)
    assert budget.num_tokens(PLACE_HEIGHT, PLACE_WIDTH) == 20


def test_bad_sizes_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        SMALL.fit(0, 10)
    with pytest.raises(ValueError, match="crop"):
        SMALL.fit(4, 1000)
    with pytest.raises(ValueError, match="crop"):
        SMALL.fit(28, 28 * 100)
    with pytest.raises(ValueError, match="fit"):
        SMALL.grid(83, 112)
    with pytest.raises(ValueError, match="max_pixels"):
        FrameBudget(min_pixels=100, max_pixels=99)


@pytest.mark.parametrize(
    "config",
    [
        {"min_pixels": 784, "max_pixels": 9408},
        {"size": {"shortest_edge": 784, "longest_edge": 9408}},
    ],
)
def test_load_reads_both_spellings(tmp_path: Path, config: dict) -> None:
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({**config, "patch_size": 14, "merge_size": 2})
    )
    assert FrameBudget.load(tmp_path) == SMALL


def test_a_directory_without_the_file_or_its_normalisation_is_told(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    for load in (FrameBudget.load, PixelFormat.load):
        with pytest.raises(ValueError, match=f"{path} is missing"):
            load(tmp_path)
    for has, lacks in (("image_mean", "image_std"), ("image_std", "image_mean")):
        path.write_text(json.dumps({"min_pixels": 784, "max_pixels": 9408, has: [0.5, 0.5, 0.5]}))
        with pytest.raises(ValueError, match=f"{path} has no {lacks}"):
            PixelFormat.load(tmp_path)


def test_load_refuses_a_config_without_budget(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="min_pixels"):
        FrameBudget.load(tmp_path)
