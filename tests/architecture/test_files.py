"""What no file of the project may hold, and what some must."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from services.shared.settings import Settings

ROOT = Path(__file__).parents[2]

# Put together from pieces, so that this file does not hold what it looks for.
PACKAGE_INDEX = "|".join(
    ("py" + r"pi\.org", "python" + r"hosted\.org", r"--(extra-)?index" + "-url", "find" + "-links")
)
MACHINE_PATH = "|".join(
    (r"/ho" + r"me/\w", r"/Us" + r"ers/\w", r"/ro" + "ot/", r"/wo" + r"rk/\w", r"C:\\Us" + "ers")
)
# `make lock` and `make setup` name the options that keep addresses out, or read the user's own.
ALLOWED = {("Makefile", "--no-emit-index" + "-url"), ("Makefile", "global.index" + "-url")}


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_lines(path: Path) -> list[str]:
    content = path.read_bytes()
    return [] if b"\0" in content else content.decode(errors="replace").splitlines()


@pytest.mark.parametrize("pattern", [PACKAGE_INDEX, MACHINE_PATH], ids=["package-index", "machine-path"])
def test_no_file_names_a_package_index_or_a_machine(pattern: str) -> None:
    found = []
    for path in tracked_files():
        name = str(path.relative_to(ROOT))
        for number, line in enumerate(text_lines(path), start=1):
            for allowed_in, text in ALLOWED:
                if name == allowed_in:
                    line = line.replace(text, "")
            if re.search(pattern, line):
                found.append(f"{name}:{number}: {line.strip()[:120]}")
    assert not found


def test_no_two_files_of_tests_have_one_name() -> None:
    """Without packages pytest imports them by their name alone, and collects only the first."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_locked_package_has_a_hash() -> None:
    for lock in ("requirements.lock", "infra/uv.lock"):
        lines = (ROOT / lock).read_text().splitlines()
        for number, line in enumerate(lines):
            if re.match(r"[a-z0-9]", line):
                assert "==" in line, f"{lock}: {line}"
                assert lines[number + 1].strip().startswith("--hash=sha256:"), f"{lock}: {line} has no hash"


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `(STREAMO_\w+)` \| `?(.*?)`? \|", (ROOT / "docs/settings.md").read_text(), re.M)
    )
    assert sorted(rows) == Settings.variables()
    settings = Settings.model_construct()
    for section in Settings.model_fields:
        for name, value in getattr(settings, section).model_dump(mode="json").items():
            variable = f"STREAMO_{section}__{name}".upper()
            if variable == "STREAMO_MODEL__PATH":
                value = "models/checkpoints/streamo-tiny"  # in the checkout, wherever that is
            shown = "" if value in ("", []) else str(value).lower() if isinstance(value, bool) else str(value)
            assert rows[variable] == shown, (
                f"{variable} is {shown!r}, docs/settings.md says {rows[variable]!r}"
            )
