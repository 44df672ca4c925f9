from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.vlm import tower_graphs, vision_tower
from models.vlm.cuda_capture import Compute, CudaCapture
from models.vlm.family import Family
from models.vlm.frame_size import FrameBudget
from models.vlm.model import VisionEncoder
from models.vlm.pixels import PixelFormat
from models.vlm.qwen2_5 import QWEN2_5
from models.vlm.qwen3 import QWEN3
from models.vlm.tower_graphs import BUCKETS, TowerGraphs

WIDE, TALL = (2, 4), (6, 4)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Recordings:
    """Records like a device as far as a caller can tell: each recording has one output, which it writes anew."""

    def __init__(self) -> None:
        self.num_rows: list[int] = []

    def __call__(self, run: Callable[[], torch.Tensor]) -> Compute:
        output = run()
        self.num_rows.append(len(output))

        def replay() -> torch.Tensor:
            return output.copy_(run())

        return replay


@pytest.fixture(scope="module")
def tower(model_dir: Path) -> Any:
    return VisionEncoder.load(model_dir)._visual


def draw_patches(tower: Any, grids: list[tuple[int, int]], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    num_rows = sum(rows * cols for rows, cols in grids)
    return torch.randn(num_rows, 3 * tower.config.patch_size**2, generator=generator)


@torch.no_grad()
def one_by_one(tower: Any, patches: torch.Tensor, grids: list[tuple[int, int]]) -> list[torch.Tensor]:
    """The definition."""
    frames = patches.split([rows * cols for rows, cols in grids])
    return [
        vision_tower.visual_tokens(tower, frame, (grid,)) for frame, grid in zip(frames, grids, strict=True)
    ]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == tower_graphs.__name__]


def check(graphs: TowerGraphs, tower: Any, grids: list[tuple[int, int]], seed: int = 0) -> None:
    patches = draw_patches(tower, grids, seed)
    with torch.no_grad():
        found = graphs.tokens(patches, grids)
    torch.testing.assert_close(found, one_by_one(tower, patches, grids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_frames_come_back_in_order_whatever_their_grids(tower: Any, seed: int) -> None:
    graphs = TowerGraphs(tower, Recordings())
    for grids in ([WIDE, TALL, TALL, WIDE, TALL], [TALL], [TALL, WIDE] * 2, [WIDE] * 5):
        check(graphs, tower, grids, seed)
    assert graphs.tokens(draw_patches(tower, []), []) == []


def test_a_number_of_frames_is_filled_up_and_a_large_one_split(tower: Any) -> None:
    recordings = Recordings()
    graphs = TowerGraphs(tower, recordings)
    tokens = WIDE[0] * WIDE[1] // 4
    for num_frames, added in [(1, [1]), (5, [6]), (6, []), (7, [8]), (16, [16]), (37, []), (35, [3])]:
        del recordings.num_rows[:]
        check(graphs, tower, [WIDE] * num_frames, num_frames)
        assert recordings.num_rows == [size * tokens for size in added], num_frames
    assert set(BUCKETS) >= {1, 3, 6, 8, 16}


def test_frames_of_an_earlier_pass_do_not_stay(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    run = vision_tower.run

    def spy(visual: Any, patches: torch.Tensor, plan: vision_tower.Plan) -> torch.Tensor:
        seen.append(patches.clone())
        return run(visual, patches, plan)

    monkeypatch.setattr(vision_tower, "run", spy)
    graphs = TowerGraphs(tower, Recordings())
    for num_frames in (6, 5):
        patches = draw_patches(tower, [WIDE] * num_frames, num_frames)
        with torch.no_grad():
            graphs.tokens(patches, [WIDE] * num_frames)
        assert torch.equal(seen[-1][: len(patches)], patches)
        assert not seen[-1][len(patches) :].any()
    assert len(seen[-1]) == 6 * WIDE[0] * WIDE[1]


def test_tokens_are_the_callers_to_keep(tower: Any) -> None:
    graphs = TowerGraphs(tower, Recordings())
    with torch.inference_mode():
        first = graphs.tokens(draw_patches(tower, [WIDE], 0), [WIDE])[0]
    kept = first.clone()
    check(graphs, tower, [WIDE], 1)
    assert torch.equal(first, kept)


def test_the_recordings_used_last_are_kept(tower: Any) -> None:
    recordings = Recordings()
    graphs = TowerGraphs(tower, recordings, max_graphs=2)
    for grids, total in [([WIDE], 1), ([TALL], 2), ([WIDE], 2), ([WIDE] * 2, 3), ([WIDE], 3), ([TALL], 4)]:
        check(graphs, tower, grids)
        assert len(recordings.num_rows) == total


def test_after_what_cannot_be_recorded_the_recordings_at_hand_are_used(
    tower: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recordings = Recordings()
    tries = []

    def refuse_wide(run: Compute) -> Compute:
        tries.append(run)
        if len(tries) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")
        return recordings(run)

    graphs = TowerGraphs(tower, refuse_wide)
    for seed in range(3):
        check(graphs, tower, [TALL, *[WIDE] * 5], seed)
        check(graphs, tower, [TALL] * 3, seed)
    assert len(tries) == 2
    assert len(recordings.num_rows) == 1
    (warning,) = warnings_of(caplog)
    assert "6 frames of 2x4" in warning


# On a device. Grids that are whole windows and grids that are not go different ways through the attention.

EVEN, RAGGED = (8, 16), (12, 20)
CASES: list[tuple[Family, dict[str, Any]]] = [
    (QWEN2_5, {"hidden_size": 32, "fullatt_block_indexes": [1]}),
    (QWEN2_5, {"hidden_size": 160, "fullatt_block_indexes": [1]}),  # heads as wide as Qwen2.5-VL-7B's
    (QWEN3, {"hidden_size": 144, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]}),
]


def random_encoder(family: Family, sizes: dict[str, Any], dtype: torch.dtype) -> VisionEncoder:
    shape = {"depth": 3, "num_heads": 2, "intermediate_size": 100, "out_hidden_size": 64, **sizes}
    config = family.config_class(vision_config=shape).vision_config
    device = torch.device("cuda")
    tower = family.empty_tower(config, device)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.1 * torch.randn(weight.shape, generator=generator) + (weight.ndim == 1)
        for name, weight in tower.state_dict().items()
    }
    tower.load_state_dict({name: weight.to(device, dtype) for name, weight in weights.items()}, assign=True)
    unit = config.patch_size * config.spatial_merge_size
    budget = FrameBudget(unit**2, 100 * unit**2, config.patch_size, config.spatial_merge_size)
    return VisionEncoder(tower, PixelFormat(budget, (0.5,) * 3, (0.5,) * 3), dtype, device)


def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    ours, theirs = torch.cat(found).float(), torch.cat(expected).float()
    return ((ours - theirs).std() / theirs.std()).item()


@needs_cuda
@pytest.mark.parametrize(("family", "sizes"), CASES)
@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.05), (torch.float32, 1e-4)])
def test_a_devices_recordings_equal_its_kernels_one_by_one(
    family: Family, sizes: dict[str, Any], dtype: torch.dtype, near: float, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = random_encoder(family, sizes, dtype)
    batches = [[EVEN, RAGGED, EVEN], [EVEN, EVEN, RAGGED], [RAGGED] * 5 + [EVEN] * 17, [RAGGED, EVEN, EVEN]]
    results = []
    for seed, grids in enumerate(batches):
        patches = draw_patches(encoder._visual, grids, seed).to(encoder.device, dtype)
        results.append((patches, grids, encoder.encode_patches(patches, grids)))
    assert not warnings_of(caplog)
    for patches, grids, found in results:
        assert distance(found, one_by_one(encoder._visual, patches, grids)) < near
        with torch.no_grad():
            together = vision_tower.visual_tokens(encoder._visual, patches, tuple(grids))
        assert distance(found, [together]) < near
    assert distance(results[0][2][:1], results[1][2][:1]) > 0.3, "tokens too alike to prove anything"


@needs_cuda
def test_a_device_goes_on_after_a_recording_that_broke_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = random_encoder(*CASES[1], torch.bfloat16)
    tower = encoder._visual
    run = vision_tower.run

    def wait_if_wide(visual: Any, patches: torch.Tensor, plan: vision_tower.Plan) -> torch.Tensor:
        tokens = run(visual, patches, plan)
        if len(patches) == EVEN[0] * EVEN[1] and torch.cuda.is_current_stream_capturing():
            tokens.sum().item()
        return tokens

    monkeypatch.setattr(vision_tower, "run", wait_if_wide)
    graphs = TowerGraphs(tower, CudaCapture(encoder.device))
    stream = torch.cuda.current_stream()
    for seed, grids in enumerate([[RAGGED], [EVEN], [RAGGED], [EVEN], [RAGGED] * 2]):
        patches = draw_patches(tower, grids, seed).to(encoder.device, encoder.dtype)
        with torch.no_grad():
            found = graphs.tokens(patches, grids)
        assert distance(found, one_by_one(tower, patches, grids)) < 0.05
        assert torch.cuda.current_stream() == stream
    assert len(warnings_of(caplog)) == 1
