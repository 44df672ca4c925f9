"""Where and with what a benchmark was run."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch


@dataclass(frozen=True)
class Environment:
    cpu: str
    num_cores: int
    memory_bytes: int
    system: str
    python: str
    torch: str
    transformers: str
    torch_threads: int
    commit: str
    """With "+" behind it if files differed from the commit."""
    load_average: float
    """Runnable processes over the last minute, at the start; this benchmark makes about one."""

    @classmethod
    def now(cls) -> Environment:
        return cls(
            cpu=_cpu_name(),
            num_cores=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            torch=version("torch"),
            transformers=version("transformers"),
            torch_threads=torch.get_num_threads(),
            commit=_commit(),
            load_average=os.getloadavg()[0],
        )


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    # What the benchmark itself writes does not change what was measured.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/benchmarks")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
