"""Whole runs on simulated clips with known truth, against a teacher on loopback that errs on purpose."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.data.convert import ConvertConfig, Converter
from models.data.curation.config import CurationConfig
from models.data.curation.curation import CurationOutcome
from models.data.json_array import read_json_array
from services.cli.curate_command import EXAMPLE
from tests.support.curation_trial import Score, run_curation, scores, trial_config
from tests.support.noisy_teacher import Noise, NoisyTeacher, TrueClip, make_clip
from tests.support.stub_endpoint import Answer, StubEndpoint

SECONDS = 30
NUM_CLIPS = 12
# One in ten of the wrong things is repeated by every look: no filter can tell.
NOISE = Noise(0.3, stubborn=0.1)
SPLITS = ("train.json", "validation.json", "test.json")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrueClip]]:
    folder = tmp_path_factory.mktemp("curation")
    return folder, [make_clip(folder / "videos", seed, SECONDS, size=(112, 140)) for seed in range(NUM_CLIPS)]


@contextmanager
def teacher(
    clips: list[TrueClip],
    noise: Noise,
    before: Callable[[StubEndpoint, dict[str, Any]], Answer | None] | None = None,
) -> Iterator[StubEndpoint]:
    noisy = NoisyTeacher(clips, noise)

    def answer(body: dict[str, Any]) -> Answer:
        return (before(stub, body) if before else None) or Answer(noisy.reply(body))

    stub = StubEndpoint(answer)
    with stub:
        yield stub


def config_for(videos: Path, out: Path, stub: StubEndpoint, **changes: object) -> CurationConfig:
    config = trial_config(videos, stub.base_url, **changes)
    return config.model_copy(update={"output": out})


def files_of(out: Path) -> dict[str, str]:
    """Everything that a run delivers, without what it cost."""
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["cost"]
    delivered = {
        path.name: path.read_bytes() for path in out.iterdir() if path.name in (*SPLITS, "claims.jsonl")
    }
    delivered |= {path.name: path.read_bytes() for path in (out / "clips").iterdir()}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in delivered.items()}
    return hashes | {"manifest": json.dumps(manifest, sort_keys=True)}


@dataclass(frozen=True)
class Run:
    out: Path
    outcome: CurationOutcome
    num_requests: int


@pytest.fixture(scope="module")
def noisy_run(clips: tuple[Path, list[TrueClip]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, truth = clips
    out = tmp_path_factory.mktemp("noisy")
    with teacher(truth, NOISE) as stub:
        return Run(out, run_curation(config_for(folder, out, stub)), stub.num_requests)


def scores_under(
    noise: Noise, clips: tuple[Path, list[TrueClip]], tmp_path: Path
) -> dict[str, tuple[Score, Score]]:
    """Of what the teacher said, and of what was kept of it, by task."""
    folder, truth = clips
    with teacher(truth, noise) as stub:
        return scores(truth, run_curation(config_for(folder, tmp_path / "out", stub)).results)


def test_filters_raise_precision(clips: tuple[Path, list[TrueClip]], noisy_run: Run) -> None:
    table = scores(clips[1], noisy_run.outcome.results)
    for task in ("narration", "action", "event"):
        before, after = table[task]
        assert before.precision < 0.75 < 0.9 < after.precision
        assert after.recall > before.recall - 0.2
    before, after = (sum((pair[side] for pair in table.values()), Score()) for side in (0, 1))
    assert before.num_said > 100 and after.num_said > 40
    assert after.precision > max(0.9, before.precision + 0.25)


def test_nothing_wrong_passes_the_filters_but_what_every_look_repeats(
    clips: tuple[Path, list[TrueClip]], tmp_path: Path
) -> None:
    table = scores_under(Noise(0.3), clips, tmp_path)
    for _, after in table.values():
        assert after.precision == 1.0
        assert after.num_said >= 5
    assert sum((before for before, _ in table.values()), Score()).precision < 0.75


def test_a_faultless_teacher_loses_nothing_to_the_filters(
    clips: tuple[Path, list[TrueClip]], tmp_path: Path
) -> None:
    for task, (before, after) in scores_under(Noise(0.0), clips, tmp_path).items():
        # Grounding leaves out what happens more than once.
        assert after.precision == 1.0 and (before.precision == 1.0 or task == "grounding")
        assert after.recall >= before.recall - 0.05


def test_what_a_run_delivers(noisy_run: Run) -> None:
    out = noisy_run.out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(noisy_run.outcome.manifest)) and manifest["complete"]
    assert manifest["cost"]["replies"] == noisy_run.num_requests
    assert manifest["cost"]["prompt_tokens"] == 100 * noisy_run.num_requests
    (source,) = manifest["sources"]
    assert (source["licence"], source["videos"], source["clips"]) == ("CC0-1.0", NUM_CLIPS, NUM_CLIPS)
    # A group of near-duplicates is on one side of the split, and so is each video.
    sides: dict[str, set[str]] = {}
    for clip in manifest["clips"]:
        sides.setdefault(clip["group"], set()).add(clip["split"])
    assert all(len(side) == 1 for side in sides.values())
    split_of = {clip["key"]: clip["split"] for clip in manifest["clips"]}
    tasks = set()
    for name in SPLITS:
        split = name.removesuffix(".json")
        assert manifest["splits"][split]["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
        samples = list(read_json_array(out / name))
        assert len(samples) == manifest["splits"][split]["samples"]
        for index, element in enumerate(samples):
            # Every sample converts, and nothing of it is left out.
            converter = Converter(ConvertConfig("stream", fps=1.0, video_root=out))
            converted, findings = converter.convert(element, name, index)
            assert findings == []
            assert len(converted.rounds) == SECONDS
            assert split_of[element["video_name"]] == split
            tasks.add(element["task_type"])
    assert tasks == {"narration", "action", "event", "grounding", "qa"}
    verdicts = [json.loads(line) for line in (out / "claims.jsonl").read_text().splitlines()]
    rejected = sum(count for task in manifest["rejected"]["claims"].values() for count in task.values())
    assert rejected == sum(bool(verdict["reason"]) for verdict in verdicts) > 0
    assert sum(manifest["kept"].values()) == len(verdicts) - rejected


@pytest.mark.parametrize(
    "shares",
    [(0.5,), pytest.param((0.0, 0.1, 0.3, 0.6, 0.9, 0.99), marks=pytest.mark.slow)],
    ids=["once", "often"],
)
def test_a_killed_run_goes_on_and_pays_nothing_twice(
    shares: tuple[float, ...], clips: tuple[Path, list[TrueClip]], noisy_run: Run, tmp_path: Path
) -> None:
    folder, truth = clips
    out = tmp_path / "killed"
    num_whole = noisy_run.num_requests
    kill_at = [1 + int(share * num_whole) for share in shares]
    lock = threading.Lock()
    running: list[subprocess.Popen[bytes]] = []

    def kill(stub: StubEndpoint, body: dict[str, Any]) -> Answer | None:
        with lock:
            if kill_at and stub.num_requests >= kill_at[0]:
                kill_at.pop(0)
                running[-1].send_signal(signal.SIGKILL)
                running[-1].wait(20)
        return None

    (out / "clips").mkdir(parents=True)
    for left in (out / ".train.json.77.partial", out / "clips" / ".abc.77.partial.mp4"):
        left.write_text("half of it")
    with teacher(truth, NOISE, kill) as stub:
        config = config_for(folder, out, stub)
        for _ in shares:
            running.append(_spawn(config))
            assert running[-1].wait(60) == -signal.SIGKILL
            assert not (out / "manifest.json").exists()
        outcome = run_curation(config)
        num_killed = stub.num_requests
    assert outcome.manifest is not None
    assert files_of(out) == files_of(noisy_run.out)
    assert not [*out.glob(".*.partial*"), *(out / "clips").glob(".*.partial*")]
    # Only what was on its way at a kill is asked twice.
    assert num_whole < num_killed <= num_whole + len(shares) * config.teacher.concurrency
    assert outcome.manifest["cost"]["replies"] <= num_killed


def _spawn(config: CurationConfig) -> "subprocess.Popen[bytes]":
    code = (
        "import sys; from models.data.curation.config import CurationConfig; "
        "from tests.support.curation_trial import run_curation; "
        "run_curation(CurationConfig.model_validate_json(sys.stdin.read()))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": "."},
    )
    assert process.stdin is not None
    process.stdin.write(config.model_dump_json().encode())
    process.stdin.close()
    return process


def test_what_the_teacher_owes_is_told_and_nothing_is_written(
    clips: tuple[Path, list[TrueClip]], tmp_path: Path
) -> None:
    folder, truth = clips
    out = tmp_path / "out"
    is_ill = True

    def fail(stub: StubEndpoint, body: dict[str, Any]) -> Answer | None:
        asked = body["messages"][1]["content"][-1]["text"]
        return Answer(status=500) if is_ill and asked.startswith("Ask about this clip") else None

    with teacher(truth, Noise(0.2), fail) as stub:
        config = config_for(folder, out, stub, tasks=("event", "qa"))
        config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"max_attempts": 2})})
        outcome = run_curation(config)
        assert outcome.manifest is None and not (out / "manifest.json").exists()
        assert sum(outcome.undone.values()) == NUM_CLIPS and all("500" in reason for reason in outcome.undone)
        partial = run_curation(config, write_incomplete=True).manifest
        assert partial is not None and not partial["complete"]
        assert all("qa" not in split["tasks"] for split in partial["splits"].values())
        is_ill = False
        whole = run_curation(config).manifest
        assert whole is not None and whole["complete"] and whole["undone"] == {}
        assert sum(split["tasks"].get("qa", 0) for split in whole["splits"].values()) > 0


def test_a_spent_budget_stops_the_run_and_a_higher_one_goes_on(
    clips: tuple[Path, list[TrueClip]], tmp_path: Path
) -> None:
    folder, truth = clips
    with teacher(truth, Noise(0.2)) as stub:
        config = config_for(folder, tmp_path / "out", stub, tasks=("event",))
        poor = config.teacher.model_copy(update={"budget_tokens": 30_000})
        outcome = run_curation(config.model_copy(update={"teacher": poor}))
        assert outcome.manifest is None and "30000" in outcome.stopped
        assert 0 < 110 * stub.num_requests <= 30_000
        spent = stub.num_requests
        assert run_curation(config).manifest is not None
        whole = stub.num_requests
        assert run_curation(config).manifest is not None
        assert spent < whole == stub.num_requests


def samples_of(out: Path) -> list[Any]:
    return [element for name in SPLITS for element in read_json_array(out / name)]


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        # The last task of a clip is refused: the tasks before it are done, in this clip and in all later ones.
        ({"tasks": ("event",)}, {"tasks": ("event", "qa")}, "Ask about this clip"),
        # All tasks are done, and what is asked for negatives is refused.
        ({"tasks": ("event", "grounding"), "negatives": 0}, {"tasks": ("event", "grounding")}, ""),
    ],
)
def test_a_teacher_that_stops_the_run_costs_nothing_that_is_done(
    before: dict[str, Any],
    after: dict[str, Any],
    refused: str,
    clips: tuple[Path, list[TrueClip]],
    tmp_path: Path,
) -> None:
    folder, truth = clips
    out = tmp_path / "out"
    num_refused = 0

    def refuse(stub: StubEndpoint, body: dict[str, Any]) -> Answer | None:
        nonlocal num_refused
        if not is_refusing or not body["messages"][1]["content"][-1]["text"].startswith(refused):
            return None
        num_refused += 1
        return Answer(status=401)

    with teacher(truth, Noise(0.2), refuse) as stub:
        is_refusing = False
        assert run_curation(config_for(folder, out, stub, **before)).manifest is not None
        done = samples_of(out)
        is_refusing = True
        config = config_for(folder, out, stub, **after)
        assert run_curation(config).manifest is None
        outcome = run_curation(config, write_incomplete=True)
    assert outcome.manifest is not None and not outcome.manifest["complete"]
    assert "401" in outcome.stopped and sum(outcome.undone.values()) == NUM_CLIPS
    assert done and samples_of(out) == done
    # Only those that were asked at once, in either run.
    assert 2 <= num_refused <= 2 * config.teacher.concurrency


def test_videos_that_cannot_be_used_are_counted(clips: tuple[Path, list[TrueClip]], tmp_path: Path) -> None:
    folder, truth = clips
    videos = tmp_path / "in" / "videos"
    videos.mkdir(parents=True)
    (videos / "a.mp4").write_bytes((folder / "videos" / "0.mp4").read_bytes())
    (videos / "again.mp4").write_bytes((folder / "videos" / "0.mp4").read_bytes())
    (videos / "broken.mp4").write_bytes(b"no video")
    make_clip(videos, 7, 3, size=(112, 140))
    with teacher(truth, Noise(0.0)) as stub:
        config = config_for(tmp_path / "in", tmp_path / "out", stub, tasks=("event",))
        manifest = run_curation(config).manifest
        assert manifest is not None
        assert manifest["rejected"]["videos"] == {
            "cannot be decoded": 1, "the same file as another": 1, "too short for a clip": 1,
        }  # fmt: skip
        assert [clip["video"] for clip in manifest["clips"]] == ["a.mp4"]
        empty = config.model_copy(
            update={"sources": (config.sources[0].model_copy(update={"root": tmp_path / "none"}),)}
        )
        with pytest.raises(ValueError, match="no video matches"):
            run_curation(empty)


def test_a_run_takes_no_clip_of_its_own_for_a_source(
    clips: tuple[Path, list[TrueClip]], tmp_path: Path
) -> None:
    folder, truth = clips
    # The output is below the root of the source, by another name of it.
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes((folder / "videos" / "0.mp4").read_bytes())
    (tmp_path / "link").symlink_to(videos)
    with teacher(truth, Noise(0.0)) as stub:
        config = config_for(tmp_path, tmp_path / "link" / "out", stub, tasks=("event",))
        for _ in range(2):
            manifest = run_curation(config).manifest
            assert manifest is not None
            assert [clip["video"] for clip in manifest["clips"]] == ["a.mp4"]
            assert manifest["rejected"]["videos"] == {}


def test_a_second_run_on_the_same_folder_is_refused(
    clips: tuple[Path, list[TrueClip]], tmp_path: Path
) -> None:
    folder, truth = clips
    refused: list[str] = []
    lock = threading.Lock()

    def run_again(stub: StubEndpoint, body: dict[str, Any]) -> Answer | None:
        with lock:
            if refused:
                return None
            with pytest.raises(ValueError, match="another run") as told:
                run_curation(config_for(folder, tmp_path / "out", stub))
            refused.append(str(told.value))
        return None

    with teacher(truth, Noise(0.0), run_again) as stub:
        run_curation(config_for(folder, tmp_path / "out", stub, tasks=("event",)))
    assert len(refused) == 1


def test_the_example_is_a_config_with_every_setting_at_its_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    path = tmp_path / "curate.toml"
    path.write_text(text)
    plain = CurationConfig.load(path)
    assert plain.output == tmp_path / "curated" and plain.sources[0].root == tmp_path / "videos"
    # The same with all that is commented out, but for the budget, whose default is none.
    lines = [
        line.removeprefix("# ") if "= " in line and "budget" not in line else line
        for line in text.splitlines()
    ]
    path.write_text("\n".join(lines))
    assert CurationConfig.load(path) == plain
    fields = [name for model in _models(plain) for name in type(model).model_fields]
    assert all(f"{name} =" in text or f"[{name}]" in text or f"[[{name}]]" in text for name in fields)


def _models(config: CurationConfig) -> list[Any]:
    return [config, config.sources[0], config.teacher, config.clips, config.filters, config.split]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"licence": ""}, "sources.0.licence"),
        ({"min_s": 50}, "min_s"),
        ({"min_agreeing": 4}, "min_agreeing"),
        ({"votes": 0}, "filters.votes"),
        ({"speed": 1}, "filters.speed: is not a setting"),
        ({"base_url": "localhost"}, "teacher.base_url"),
        ({"base_url": "http://me:s3cret@h/v1"}, "teacher.base_url: must hold no user and no password"),
        ({"test": 1.0}, "validation"),
        ({"max_bits": 9}, "split.max_bits"),
        ({"pattern": "/videos/*.mp4"}, "sources.0.pattern: must be a glob below root"),
        ({"pattern": ""}, "sources.0.pattern: must be a glob below root"),
        ({"pattern": "**.mp4/../x**"}, "sources.0.pattern: must be a glob below root"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    values = {
        "licence": "CC0-1.0",
        "min_s": 8,
        "min_agreeing": 2,
        "pattern": "**/*.mp4",
        "base_url": "http://h/v1",
        "test": 0.05,
    } | change
    extra = {key: value for key, value in change.items() if key in ("votes", "speed")}
    text = [
        'output = "out"',
        f'[[sources]]\nname = "a"\nroot = "v"\nlicence = "{values["licence"]}"',
        f'pattern = "{values["pattern"]}"',
        f'[teacher]\nbase_url = "{values["base_url"]}"\nmodel = "m"',
        f"[clips]\nmin_s = {values['min_s']}",
        f"[filters]\nmin_agreeing = {values['min_agreeing']}",
        *(f"{key} = {value}" for key, value in extra.items()),
        f"[split]\ntest = {values['test']}\nmax_bits = {values.get('max_bits', 7)}",
    ]
    path = tmp_path / "curate.toml"
    path.write_text("\n".join(text))
    with pytest.raises(ValueError, match=r"curate\.toml") as error:
        CurationConfig.load(path)
    assert told in str(error.value)
    # Nor in what a traceback would show.
    assert "s3cret" not in f"{error.value} {error.value.__cause__}"
