"""Labelled clips through the suite: the simulated place's, read back from files like anyone's own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from models.data.finding import BrokenSample, Finding
from models.data.place.data_set import DataSetConfig, write_data_set
from models.data.sessions import SessionFile
from models.evaluation.caption import CaptionReader
from models.evaluation.clip_streams import ClipStreams
from models.evaluation.report import ScoredRun
from models.evaluation.suite import SuiteRun, load_run, parse_of
from models.vlm.dialogue import Dialogue
from models.vlm.frame_size import FrameBudget
from services.cli.main import app
from services.shared.settings import ModelSettings

BUDGET = FrameBudget(28 * 28, 140 * 112)
MODEL = ModelSettings().path
DIALOGUE = Dialogue.load(MODEL, "You watch.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "cameras"
    write_data_set(DataSetConfig("validation", 5, num_frames=12, width=160, height=128), folder)
    return folder


def clip_streams(path: Path, min_word_f1: float = 1.0, **options: Any) -> ClipStreams:
    return ClipStreams(SessionFile(path, None, 2.0), BUDGET, DIALOGUE, CaptionReader(min_word_f1), **options)


def changed(folder: Path, **fields: Any) -> Path:
    """The folder's samples, the first of them with other fields."""
    samples = json.loads((folder / "raw.json").read_text())
    samples[0] |= fields
    path = folder / "changed.json"
    path.write_text(json.dumps(samples))
    return path


def write_thin_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = 8, 1800, "yuv420p"
        for _ in range(20):
            picture = np.zeros((1800, 8, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def write_broken_off(video: Path, path: Path) -> None:
    """Half of the file, behind a header that promises the whole."""
    with (
        av.open(str(video)) as whole,
        av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def told_as(source: ClipStreams, told: dict[str, Any] | None = None) -> ScoredRun:
    """A run that said what is right, but for the streams in `told`."""
    records = [
        stream.record((told or {}).get(stream.stream_id, stream.rounds)) for stream in source.streams()
    ]
    return ScoredRun(SuiteRun("run", {"source": source.settings}, tuple(records)), source.parse)


def test_every_sample_is_a_stream_with_its_frames(folder: Path) -> None:
    source = clip_streams(folder / "raw.json")
    streams = list(source.streams())
    assert source.num_streams == len(streams) == 5
    assert {stream.task for stream in streams} == {"narration", "action", "event", "grounding", "qa"}
    for stream in streams:
        pictures = list(stream.frames())
        assert len(pictures) == len(stream.rounds)
        assert {picture.shape for picture in pictures} == {(112, 140, 3)}
        assert any((picture != pictures[0]).any() for picture in pictures)
    assert list(clip_streams(folder / "raw.json").streams()) == streams


def test_who_says_what_is_right_is_right_and_who_says_nothing_is_not(folder: Path) -> None:
    source = clip_streams(folder / "raw.json")
    right = told_as(source).estimates()["all"]
    assert right["event_recall"].value == right["event_precision"].value == right["state_macro_f1"].value == 1
    silent = {
        stream.stream_id: tuple(replace(one, state=type(one.state).SILENCE, text="") for one in stream.rounds)
        for stream in source.streams()
    }
    assert told_as(source, silent).estimates()["all"]["event_recall"].value == 0


def test_words_are_compared_as_the_run_says(folder: Path) -> None:
    path = changed(
        folder,
        task_type="event",
        question=[{"content": "Report cars.", "time": "0.0"}],
        response=[{"content": "A red car left.", "st_time": "1.0", "end_time": "2.0"}],
    )
    for min_word_f1, is_right in ((1.0, False), (0.6, True)):
        source = clip_streams(path, min_word_f1)
        stream = next(source.streams())
        told = tuple(replace(one, text="a blue car left" if one.text else "") for one in stream.rounds)
        scored = told_as(source, {stream.stream_id: told})
        assert scored.tallies[0]["events/right"] == is_right
        # A report that is made later reads them the same way.
        parse = parse_of(scored.run.settings)
        (mine,), (other,) = parse("event", "red car left"), parse("event", "blue car left")
        assert mine is not None and mine.agrees_with(other) == is_right


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_type": "captions"}, r"sample 0: task_type: must be one of narration"),
        (
            {"question": [], "response": [{"content": "...", "time": "1.0"}]},
            r"sample 0: response: no words that could be compared",
        ),
        ({"video_path": "gone.mp4"}, r"sample 0: video_path: not found"),
        (
            {"question": [{"content": "Report cars. " * 200, "time": "0.0"}]},
            r"sample 0: question: instruction has \d+ tokens",
        ),
        ({"video_path": "thin.mp4"}, r"sample 0: video_path: .* 8x1800 px is thinner than 1:200"),
    ],
)
def test_what_cannot_be_scored_is_named_or_left_out(
    folder: Path, fields: dict[str, Any], message: str
) -> None:
    write_thin_video(folder / "thin.mp4")
    path = changed(folder, **fields)
    with pytest.raises(BrokenSample, match=message):
        clip_streams(path)
    findings: list[Finding] = []
    source = clip_streams(path, skip_broken=True, on_finding=findings.append)
    assert source.num_streams == 4 and sum(finding.broken for finding in findings) == 1
    (folder / "empty.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no sample to score"):
        clip_streams(folder / "empty.json")


def test_other_labels_videos_or_rules_are_other_settings(folder: Path) -> None:
    plain = clip_streams(folder / "raw.json").settings
    assert plain == clip_streams(folder / "raw.json").settings
    others = [
        clip_streams(changed(folder, source="elsewhere")).settings,
        clip_streams(folder / "raw.json", 0.9).settings,
        ClipStreams(SessionFile(folder / "raw.json", None, 1.0), BUDGET, DIALOGUE, CaptionReader()).settings,
    ]
    assert all(other != plain for other in others)


def test_the_command_scores_and_goes_on(folder: Path, tmp_path: Path) -> None:
    arguments = ["eval", "clips", "--model", str(MODEL), "--data", str(folder / "raw.json"), "--no-plots"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0 and "event_recall" in done.stdout
    report = (tmp_path / "report.md").read_text()
    assert "`clips`" in report and "state macro-F1" in report
    written = (tmp_path / "streams.jsonl").read_bytes()
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)], catch_exceptions=False)
    assert again.exit_code == 0 and (tmp_path / "streams.jsonl").read_bytes() == written
    compared = CliRunner().invoke(
        app,
        ["eval", "compare", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "compared")],
        catch_exceptions=False,
    )
    assert compared.exit_code == 0 and "0.000" in compared.stdout  # one video: no interval
    shown = compared.stdout + (tmp_path / "compared" / "comparison.md").read_text()
    assert "nan" not in shown  # there are no quiet hours
    refused = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--fps", "2"])
    assert "under other settings (source.fps" in str(refused.exception)


def test_a_video_that_breaks_off_is_named_or_left_out_and_the_others_are_unharmed(
    folder: Path, tmp_path: Path
) -> None:
    samples = json.loads((folder / "raw.json").read_text())
    write_broken_off(folder / samples[0]["video_path"], folder / "half.mp4")
    path = changed(folder, video_path="half.mp4")

    def evaluated(data: Path, out: str, *options: str) -> Any:
        arguments = ["eval", "clips", "--model", str(MODEL), "--data", str(data), "--no-plots"]
        return CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / out), *options])

    told = r"changed.json: sample 0: video_path: breaks off"
    refused = evaluated(path, "refused")
    assert refused.exit_code == 1 and told in str(refused.exception)
    skipped = evaluated(path, "skipped", "--skip-broken")
    assert skipped.exit_code == 0 and told in skipped.stderr
    assert evaluated(folder / "raw.json", "whole").exit_code == 0
    records = [load_run(tmp_path / out).records for out in ("whole", "skipped")]
    assert len(records[1]) == 4 and [one for one in records[0] if one.stream_id != "sample-0-0"] == [
        *records[1]
    ]
