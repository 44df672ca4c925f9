"""The Triton kernels: interpreted, compiled for a GPU that need not be there, and run on one that is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.engine.attention import attention_backend
from models.engine.attention.choice import check_against_sdpa

triton = pytest.importorskip("triton", reason="needs Triton, which comes with torch on Linux alone")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.timeout(300)  # some ten seconds of computing, more where processes outnumber cores
def test_the_interpreted_kernels_are_exact() -> None:
    # Triton reads the variable when the kernels are defined.
    here = Path(__file__).parent
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            here / "interpreted_paged.py",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=here.parents[3],
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout


@pytest.mark.parametrize("tile_queries", [16, 128])
def test_the_kernel_compiles_for_hopper(tile_queries: int) -> None:
    """To tensor-core instructions, with loads that run ahead, and within the shared memory of smaller GPUs."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from models.engine.attention.paged import _tuning
    from models.engine.attention.paged_kernel import attend_items

    tuning = _tuning(tile_queries, torch.bfloat16)
    constants = {
        "NUM_SHARED": 7,
        "HEAD_DIM": 128,
        "PADDED_DIM": 128,
        "BLOCK_TOKENS": 16,
        "TILE_QUERIES": tile_queries,
        "TILE_KEYS": tuning.pop("TILE_KEYS"),
    }
    types = {
        **dict.fromkeys(("query", "keys", "values", "output"), "*bf16"),
        **dict.fromkeys(("part_outputs", "part_sums"), "*fp32"),
        **dict.fromkeys(("items", "tables"), "*i32"),
        "scale": "fp32",
    }
    names = attend_items.arg_names
    fixed = {"scale", *constants}
    source = ASTSource(
        fn=attend_items,
        signature={name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        # What the launcher finds out by itself: addresses and strides are multiples of 16.
        attrs={(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if name not in fixed},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=tuning)
    assert ("wgmma.mma_async" if tile_queries == 128 else "mma.sync") in compiled.asm["ptx"]
    assert "cp.async" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 99 * 1024


@needs_gpu
@pytest.mark.parametrize("head_dim", [48, 64, 80, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_on_a_gpu_it_comes_to_what_sdpa_comes_to(head_dim: int, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    check_against_sdpa(attention_backend("paged", device), device, dtype, head_dim, num_shared=7)
