"""The images without a container engine: what the Dockerfiles say, and their install steps in a clean directory."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from services.local import ray_host
from tests.deploy.dockerfile import Dockerfile

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "infra" / "images"
# image: its lock, the extras in it, what must not be in it
CONTENTS = {
    "ingest": ("ingest", ("ingest",), {"torch", "transformers", "ray", "redis", "pillow"}),
    "gateway": ("gateway", ("gateway",), {"torch", "transformers", "ray", "redis", "av", "pillow"}),
    "model": ("model", ("encoder", "llm"), {"av", "pytest", "accelerate"}),
    "camera": ("simulator", ("simulator",), {"torch", "transformers", "ray", "redis", "kafka-python"}),
}
TOOLS = ROOT / ".cache" / "deploy-tools"


def locked(name: str) -> dict[str, str]:
    """package: version, of a lock under infra/locks."""
    lines = (ROOT / "infra/locks" / f"{name}.lock").read_text().splitlines()
    return dict(
        re.match(r"([a-z0-9._-]+)==([^ ;\\]+)", line).groups() for line in lines if line[0] not in " #"
    )


@pytest.mark.parametrize("image", CONTENTS)
def test_an_image_is_pinned_in_two_stages_non_root_and_checked(image: str):
    dockerfile = Dockerfile.read(IMAGES / f"{image}.Dockerfile")
    build, final = dockerfile.stages
    assert build.base == final.base == "${BASE}${BASE_DIGEST}"
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-bookworm", dockerfile.arguments["BASE"])
    assert dockerfile.arguments["BASE_DIGEST"] == ""
    assert final.all("USER") == ["10001:10001"]
    assert len(final.all("HEALTHCHECK")) == 1
    # Nothing but the packages comes over, and whatever is written goes to /tmp.
    assert final.all("COPY") == ["--from=build /opt/streamo /opt/streamo"]
    assert final.environment()["HOME"] == "/tmp"
    assert final.all("WORKDIR") == ["/tmp"]


@pytest.mark.parametrize("image", CONTENTS)
def test_every_copied_path_exists_and_passes_the_ignore_file(image: str):
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for text in Dockerfile.read(IMAGES / f"{image}.Dockerfile").stages[0].all("COPY"):
        for source in text.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == one or source.startswith(one + "/") for one in kept), source


@pytest.mark.parametrize("image", CONTENTS)
def test_a_lock_holds_its_extras_with_hashes_and_agrees_with_the_tested_versions(image: str):
    lock, extras, absent = CONTENTS[image]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [
        one for extra in extras for one in project["optional-dependencies"][extra]
    ]
    packages = locked(lock)
    for requirement in requirements:
        name = re.match(r"[a-z0-9-]+", requirement)[0]
        assert name in packages, f"{lock}.lock lacks {name}: make lock"
    assert not absent & set(packages)
    tested = (ROOT / "requirements.lock").read_text()
    for name, version in packages.items():
        assert re.search(rf"^{re.escape(name)}=={re.escape(version)}\b", tested, re.M), f"{name}=={version}"
    lines = (ROOT / f"infra/locks/{lock}.lock").read_text().splitlines()
    for line, following in itertools.pairwise(lines):
        assert line[0] == " " or following.strip().startswith("--hash=sha256:"), line


def test_the_model_s_command_is_one_that_its_host_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = Dockerfile.read(IMAGES / "model.Dockerfile").stages[-1].command("CMD")
    assert command[:3] == ["python", "-m", ray_host.__name__]
    monkeypatch.setattr(sys, "argv", [part.replace("/tmp/", f"{tmp_path}/") for part in command[2:]])
    # As far as its settings: an option that it does not know is refused before.
    monkeypatch.setenv("STREAMO_KAFKA__PARTITION", "3")
    with pytest.raises(SystemExit, match="unknown setting STREAMO_KAFKA__PARTITION"):
        ray_host.main()


def test_hadolint_finds_nothing():
    hadolint = TOOLS / "venv/bin/hadolint"
    if not hadolint.exists():
        pytest.skip("no hadolint: make deploy-tools")
    done = subprocess.run(
        [hadolint, *sorted(IMAGES.glob("*.Dockerfile"))], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Built:
    """The steps of an image's first stage, run under `directory` in place of /opt and /src."""

    def __init__(self, image: str, directory: Path) -> None:
        self.directory = directory
        self.stage, self.final = Dockerfile.read(IMAGES / f"{image}.Dockerfile").stages
        (directory / "src").mkdir()
        for keyword, text in self.stage.instructions:
            if keyword == "COPY":
                self._copy(*text.split())
            elif keyword == "RUN":
                self.shell(text)

    @property
    def python(self) -> Path:
        return self.directory / "opt/streamo/bin/python"

    def _copy(self, *paths: str) -> None:
        *sources, target = (path.rstrip("/") for path in paths)
        for source in sources:
            into = self.directory / "src" / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into = into / Path(source).name if len(sources) > 1 or target == "." else into
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, into)

    def shell(self, text: str) -> None:
        text = text.replace("/opt/", f"{self.directory}/opt/").replace(
            "python -m venv", f"{sys.executable} -m venv"
        )
        done = subprocess.run(
            ["sh", "-ec", text],
            cwd=self.directory / "src",
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=1500,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """As in a container of the image, away from the sources."""
        assert command[0] == "python"
        home = self.directory / "tmp"
        home.mkdir(exist_ok=True)
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [self.python, *command[1:]],
            cwd=home,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def installed(self) -> set[str]:
        listed = self.run(
            [
                "python",
                "-c",
                "from importlib.metadata import distributions\n"
                "for one in distributions(): print(one.name.lower().replace('_', '-'))",
            ]
        )
        return set(listed.stdout.split())

    def num_bytes(self) -> int:
        return sum(path.lstat().st_size for path in self.python.parents[1].rglob("*"))

    def _environment(self) -> dict[str, str]:
        """This machine's, with the address that pip is set to use: the steps themselves name none."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMO_")}
        asked = subprocess.run(
            [ROOT / ".cache/uv/bin/python", "-m", "pip", "config", "get", "global.index" + "-url"],
            capture_output=True,
            text=True,
        )
        if asked.returncode == 0:
            environment.setdefault("UV_DEFAULT_INDEX", asked.stdout.strip())
        if "PIP_CERT" in environment:
            environment.setdefault("SSL_CERT_FILE", environment["PIP_CERT"])
        return environment


IMPORTS_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("image", CONTENTS)
def test_an_image_s_steps_install_what_its_service_needs_and_no_more(image: str, tmp_path: Path):
    lock, _, absent = CONTENTS[image]
    built = Built(image, tmp_path)
    installed = built.installed()
    assert "streamo" in installed
    assert not absent & installed
    assert installed - {"streamo"} <= set(locked(lock))
    print(f"{image}: {built.num_bytes() / 1e6:.0f} MB in {len(installed)} packages")

    package = {"model": ["services.encoder", "services.llm"]}.get(image, [f"services.{image}"])
    imported = built.run(["python", "-c", IMPORTS_ALL, *package])
    assert imported.returncode == 0, imported.stderr

    # The embedded model came along: ingest reads its frame sizes.
    checkpoint = "from services.shared.settings import Settings; print(Settings.load().model.path)"
    embedded = Path(built.run(["python", "-c", checkpoint]).stdout.strip())
    assert embedded.is_relative_to(built.directory)
    assert (embedded / "streamo.json").is_file()
    assert (embedded / "model.safetensors").is_file()

    command = built.final.command("CMD")
    if image == "camera":
        helped = built.run([*built.final.command("ENTRYPOINT"), "--help"])
        assert helped.returncode == 0
        assert "simulated" in helped.stdout
    else:
        # Far enough to have imported all it needs and read its settings; no further, since there is no Kafka.
        refused = built.run(command, STREAMO_KAFKA__PARTITION="3")
        assert refused.returncode == 1
        assert "unknown setting STREAMO_KAFKA__PARTITION" in refused.stderr, refused.stderr
