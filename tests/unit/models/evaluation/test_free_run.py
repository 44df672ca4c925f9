"""The shipped checkpoint through the serving engine, many streams at once."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from models.data.finding import BrokenSample, FieldError
from models.data.sample import Round
from models.evaluation.cached_encoder import CachedEncoder
from models.evaluation.free_run import DialogueScript, LiveFrame, free_run, run_dialogues
from models.evaluation.journal import Journal
from models.evaluation.place_streams import PlaceStreams
from models.evaluation.plots import draw_plots
from models.evaluation.report import ScoredRun
from models.evaluation.stream_plan import StreamPlan
from models.evaluation.suite import (
    JOURNAL_NAME,
    ServedModel,
    ServingSettings,
    load_run,
    parse_of,
    run_suite,
)
from models.vlm.state import State
from services.cli.main import app
from services.shared.settings import ModelSettings

MODEL = ModelSettings().path
PLAN = StreamPlan(
    lively_streams=1, lively_rounds=40, quiet_streams=1, quiet_minutes=0.5, tasks=("narration", "grounding")
)


@pytest.fixture(scope="module")
def served():
    return ServedModel(MODEL, ServingSettings(), max_at_once=4)


@pytest.fixture(scope="module")
def source(served):
    return PlaceStreams(PLAN, served.budget)


@pytest.fixture(scope="module")
def run(served, source, tmp_path_factory):
    return run_suite(tmp_path_factory.mktemp("run"), MODEL, served, ServingSettings(), source)


def test_the_same_plan_gives_the_same_streams(served, source):
    again = list(PlaceStreams(PLAN, served.budget).streams())
    streams = list(source.streams())
    assert again == streams and len(streams) == source.num_streams
    assert len({stream.stream_id for stream in streams}) == len(streams)
    for one, other in zip(streams, again, strict=True):
        for picture, same in zip(one.frames(), other.frames(), strict=True):
            assert (picture == same).all()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tasks": ("qa", "event", "qa")}, "tasks must name each once, got qa, event, qa"),
        ({"start_offsets_s": (0, 3600, 0)}, "start_offsets_s must name each once, got 0, 3600, 0"),
    ],
)
def test_a_plan_names_no_stream_twice(values, told):
    with pytest.raises(ValueError, match=told):
        StreamPlan(**values)


def test_what_is_held_out_and_what_is_asked_late_is_marked(served, tmp_path):
    plan = StreamPlan(
        "test",
        lively_streams=2,
        lively_rounds=36,
        quiet_streams=1,
        quiet_minutes=0.3,
        start_offsets_s=(0,),
        tasks=("grounding", "qa"),
    )
    source = PlaceStreams(plan, served.budget)
    streams = list(source.streams())
    assert {tag for stream in streams for tag in stream.tags} & {
        "held-out layout",
        "held-out combination",
        "held-out instruction",
    }
    late = [stream for stream in streams if stream.num_past_rounds]
    assert late and all(
        one.state is State.SILENCE for stream in late for one in stream.rounds[: stream.num_past_rounds]
    )
    for stream in streams:
        pictures = list(stream.frames())
        assert len(pictures) == len(stream.rounds) and all(p.dtype == "uint8" for p in pictures)
    done = run_suite(tmp_path, MODEL, served, ServingSettings(), source)
    scored = ScoredRun(done, parse_of(done.settings))
    assert scored.streams()["all"]["gold_events"] > 0
    assert any(part.startswith("held-out") for parts in scored.parts().values() for part in parts)


def test_a_later_start_is_the_same_scene(source):
    lively = [s for s in source.streams() if s.task == "grounding" and s.kind == "lively"]
    assert [stream.start_offset_s for stream in lively] == [0, 3_600, 360_000]
    first, *later = lively
    for other in later:
        assert other.group == first.group and other.instruction == first.instruction
        assert [one.state for one in other.rounds] == [one.state for one in first.rounds]
        assert other.rounds[0].end_ms == other.start_offset_s * 1000
        # Clouds and wind go by the clock; all else is the same, so no picture is as like another's counterpart.
        pictures, counterparts = (
            np.stack([*one.frames()]).reshape(len(one.rounds), -1) for one in (first, other)
        )
        alike = np.corrcoef(pictures, counterparts)[: len(pictures), len(pictures) :]
        own = np.diagonal(alike)
        assert own.mean() > 0.95 > alike.mean()


def test_the_checkpoint_tells_what_happens_by_itself(run, source):
    assert len(run.records) == source.num_streams
    scored = ScoredRun(run, parse_of(run.settings))
    estimates = scored.estimates()["narration"]
    assert estimates["state_macro_f1"].value > 0.7 and estimates["event_recall"].value > 0.5
    golds = {stream.stream_id: stream.rounds for stream in source.streams()}
    assert {record.stream_id: record.gold for record in run.records} == golds


def test_company_changes_nothing(served, source, run):
    alone = {
        record.stream_id: record.told
        for record in free_run(
            served.engine, served.encoder, served.dialogue, source.streams(), max_at_once=1
        )
    }
    assert alone == {record.stream_id: record.told for record in run.records}
    served.engine.check_integrity()


def test_a_run_goes_on_where_it_was_ended(served, source, run, tmp_path):
    calls = []

    def end_after_two():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(tmp_path, MODEL, served, ServingSettings(), source, on_stream=end_after_two)
    done_before = load_run(tmp_path).records
    assert len(done_before) == 2
    encoded = []
    again = run_suite(tmp_path, MODEL, served, ServingSettings(), source, on_round=lambda: encoded.append(1))
    assert again.records == run.records
    assert len(encoded) == sum(len(r.gold) for r in run.records) - sum(len(r.gold) for r in done_before)
    with pytest.raises(ValueError, match=r"serving\.sensitivity: 0\.0 then, 1\.0 now"):
        run_suite(tmp_path, MODEL, served, ServingSettings(sensitivity=1.0), source)


def test_sensitivity_makes_it_speak_or_be_silent(served, source):
    streams = [stream for stream in source.streams() if stream.kind == "quiet"]
    for sensitivity, silent in ((-1e6, True), (1e6, False)):
        for record in free_run(
            served.engine, served.encoder, served.dialogue, streams, sensitivity=sensitivity
        ):
            live = record.told[record.num_past_rounds :]
            assert all((one.state is State.SILENCE) == silent for one in live)


def test_silence_is_forced_on_past_rounds_alone(served, source):
    stream = next(source.streams())
    plain = next(iter(free_run(served.engine, served.encoder, served.dialogue, [stream])))
    first = next(i for i, one in enumerate(plain.told) if one.state is State.RESPONSE)
    asked = replace(stream, num_past_rounds=first + 1)
    late = next(iter(free_run(served.engine, served.encoder, served.dialogue, [asked])))
    assert all(one.state is State.SILENCE for one in late.told[: first + 1])
    assert any(one.state is State.RESPONSE for one in late.told[first + 1 :])
    assert late.num_past_rounds == first + 1


def test_a_session_that_fails_leaves_nothing_behind(served, source):
    stream = next(source.streams())
    picture = next(stream.frames())

    def frames():
        yield LiveFrame(0, 1000, picture)
        raise OSError("the video broke off")

    scripts = [DialogueScript("broken", stream.instruction, frames())]
    with pytest.raises(OSError, match="broke off"):
        list(run_dialogues(served.engine, served.encoder, served.dialogue, scripts, max_at_once=2))
    served.engine.open("broken", stream.instruction)
    served.engine.close("broken")


def test_a_script_that_breaks_off_is_left_out_and_the_others_go_on(served, source):
    stream, other = itertools.islice(source.streams(), 2)
    alone = next(iter(free_run(served.engine, served.encoder, served.dialogue, [other])))

    def frames():
        yield from itertools.islice(stream.frames(), 20)
        raise FieldError("video_path", "breaks off").at("file", 3)

    broken = replace(stream, frames=frames)
    with pytest.raises(BrokenSample, match="file: sample 3: video_path: breaks off"):
        list(free_run(served.engine, served.encoder, served.dialogue, [broken, other]))
    told: list[BrokenSample] = []
    records = list(
        free_run(served.engine, served.encoder, served.dialogue, [broken, other], on_broken=told.append)
    )
    assert records == [alone] and [one.finding.index for one in told] == [3]
    assert served.engine.stats.sessions == 0
    served.engine.check_integrity()


def test_labels_without_pictures_are_refused(served, source):
    stream = next(source.streams())
    longer = replace(stream, rounds=(*stream.rounds, Round(10**9, 10**9 + 1000, State.SILENCE)))
    with pytest.raises(ValueError, match="zip"):
        list(free_run(served.engine, served.encoder, served.dialogue, [longer]))


def test_equal_pictures_are_encoded_once(served, source):
    stream = next(source.streams())
    pictures = list(stream.frames())
    encoder = CachedEncoder(served.encoder._encoder, max_frames=2)
    (first,), (second,) = encoder.encode(pictures[:1]), encoder.encode(pictures[:1])
    assert first is second and (encoder.num_asked, encoder.num_encoded) == (2, 1)
    changed = pictures[0].copy()
    changed[0, 0, 0] ^= 1
    (other,) = encoder.encode([changed])
    assert not (other == first).all()
    # Older ones make room.
    twice = encoder.encode([pictures[1] ^ 1, pictures[0], pictures[1] ^ 1])
    assert twice[0] is twice[2] and encoder.num_encoded == 3
    encoder.encode([changed])
    assert encoder.num_encoded == 4


def test_a_run_is_reported_and_compared_from_its_directory(run, tmp_path):
    with Journal(tmp_path / "a" / JOURNAL_NAME, run.settings) as journal:
        for record in run.records:
            journal.add(record.stream_id, record.to_json())
    for arguments in (
        ("report", tmp_path / "a", "--no-plots"),
        ("compare", tmp_path / "a", tmp_path / "a", "--out", tmp_path / "b"),
    ):
        done = CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0 and "macro" in done.stdout
    assert "# Evaluation: streamo-tiny" in (tmp_path / "a" / "report.md").read_text()
    assert "state macro-F1" in (tmp_path / "b" / "comparison.md").read_text()
    refused = CliRunner().invoke(app, ["eval", "report", str(tmp_path / "b")])
    assert "no run has been written there" in str(refused.exception)


def test_plots_are_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    plots = draw_plots(tmp_path, ScoredRun(run, parse_of(run.settings)))
    assert sorted(plots) == sorted(path.name for path in tmp_path.iterdir())
    assert all((tmp_path / name).stat().st_size > 5000 for name in plots)
