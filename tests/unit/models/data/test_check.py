import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.data.check import DataCheck, DataStatistics, class_balanced_weights, frequency_weights
from models.data.check_plots import plot_statistics
from models.data.finding import Finding
from models.training.loss import weighted_token_losses
from models.vlm.state import State
from tests.support.video import write_video


def chat(replies: str, question: str = "Q?", **more: Any) -> dict[str, Any]:
    """A stream sample; replies of one letter each: s, b (Standby), r."""
    text = {"s": "</Silence>", "b": "</Standby>", "r": "</Response> yes"}
    messages = [{"role": "system", "content": "S"}]
    for index, letter in enumerate(replies):
        asked = f"{question}\n" if index == 0 else ""
        messages.append({"role": "user", "content": f"{asked}<{index}s-{index + 1}s>\n<stream>"})
        messages.append({"role": "assistant", "content": text[letter]})
    return {"messages": messages, "videos": ["v.mp4"], **more}


def checked(tmp_path: Path, *elements: Any, **options: Any) -> tuple[DataStatistics, list[Finding]]:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(elements))
    findings: list[Finding] = []
    return DataCheck(**options).run(path, findings.append), findings


def test_counts_of_a_stream_file(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 1, size=(56, 56))
    statistics, findings = checked(
        tmp_path,
        chat("ssbbr", task_type="event", source="mine"),
        chat("ssr", task_type="qa", source="mine"),
        chat("rr", task_type="qa", source="other"),
        chat("ss", task_type="event") | {"videos": []},
    )
    assert statistics.format == "stream"
    assert (statistics.num_samples, statistics.num_broken) == (4, 1)
    assert statistics.state_counts == (4, 2, 4)
    assert statistics.task_states["event"] == {State.SILENCE: 2, State.STANDBY: 2, State.RESPONSE: 1}
    assert statistics.tasks == {"event": 1, "qa": 2}
    assert statistics.sources == {"mine": 2, "other": 1}
    assert statistics.durations_s == [5, 3, 2]
    assert statistics.questions_per_sample == {1: 3}
    assert statistics.responses_per_sample == {1: 2, 2: 1}
    assert [(one.index, one.field, one.broken) for one in findings] == [(3, "videos", True)]
    assert statistics.broken_reasons == {"missing": 1}


def test_a_response_of_white_space_is_broken(tmp_path: Path) -> None:
    element = chat("sr")
    element["messages"][4]["content"] = "</Response>  "
    statistics, findings = checked(tmp_path, element, open_videos=False)
    assert statistics.state_counts == (0, 0, 0)
    assert [(one.field, one.reason, one.broken) for one in findings] == [
        ("messages.4.content", "a Response without words", True)
    ]


def test_an_image_file_needs_its_pictures(tmp_path: Path) -> None:
    there = tmp_path / "frame.jpg"
    there.touch()
    element = json.loads(json.dumps(chat("sr")).replace("<stream>", "<image>"))
    del element["videos"]
    good = element | {"images": [str(there), str(there)]}
    gone = element | {"images": [str(there), str(tmp_path / "gone.jpg")]}
    short = element | {"images": [str(there)]}
    statistics, findings = checked(tmp_path, good, gone, short)
    assert (statistics.format, statistics.num_broken) == ("image", 2)
    assert [(one.index, one.field) for one in findings] == [(1, "images.1"), (2, "images")]
    assert checked(tmp_path, good, gone, open_videos=False)[0].num_broken == 0


def test_a_raw_file_is_checked_with_its_videos_or_without(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 6, size=(56, 56))
    span = {"content": "A", "st_time": 2, "end_time": 3}
    elements = [
        {
            "video_path": "v.mp4",
            "task_type": "event",
            "question": [{"content": "Q?", "time": 0}],
            "response": [span],
        },
        {"video_path": "v.mp4", "question": [{"content": "Q?", "time": 99}]},
        {"video_path": "gone.mp4"},
    ]
    statistics, findings = checked(tmp_path, *elements, video_root=tmp_path)
    # Six frames: the span is Standby, Standby, Response, all else is Silence.
    assert statistics.state_counts == (9, 2, 1)
    assert statistics.durations_s == [6, 6]
    assert [(one.index, one.broken) for one in findings] == [(1, False), (2, True)]
    statistics, findings = checked(tmp_path, *elements, open_videos=False)
    assert (statistics.num_broken, findings, statistics.state_counts) == (0, [], (0, 0, 0))
    assert statistics.questions_per_sample == {1: 2, 0: 1}


def test_a_stream_file_needs_its_videos(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    write_video(tmp_path / "root" / "v.mp4", 1, size=(56, 56))
    (tmp_path / "text.mp4").write_text("no video")
    elements = chat("sr"), chat("sr") | {"videos": ["gone.mp4"]}, chat("sr") | {"videos": ["text.mp4"]}
    statistics, findings = checked(tmp_path, *elements, video_root=tmp_path / "root")
    assert [(one.index, one.field, one.reason) for one in findings] == [
        (1, "video_path", "not found"),
        (2, "video_path", "not found"),
    ]
    statistics, findings = checked(tmp_path, *elements)
    assert [(one.index, one.reason) for one in findings] == [
        (0, "not found"),
        (1, "not found"),
        (2, "cannot be opened as a video"),
    ]
    statistics, findings = checked(tmp_path, *elements, open_videos=False)
    assert (statistics.num_broken, findings, statistics.state_counts) == (0, [], (3, 0, 3))
    with pytest.raises(ValueError, match="decode: "):
        DataCheck(open_videos=False, decode=True)


def test_a_video_that_breaks_off_is_found_where_it_is_read_to_its_end(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", 6, size=(56, 56)).read_bytes()
    # The index stands behind the pictures, of which a part is blank then.
    (tmp_path / "v.mp4").write_bytes(whole[:400] + bytes(len(whole) // 2) + whole[400 + len(whole) // 2 :])
    raw = {"video_path": "v.mp4", "question": [{"content": "Q?", "time": 0}]}
    statistics, _ = checked(tmp_path, raw)
    assert (statistics.num_broken, statistics.num_samples) == (0, 1)
    for element in (raw, chat("ssr")):
        statistics, findings = checked(tmp_path, element, decode=True)
        assert [(one.field, one.broken) for one in findings] == [("video_path", True)]
        assert "v.mp4" in findings[0].detail
    assert checked(tmp_path, raw | {"video_path": "whole.mp4"}, decode=True)[0].num_broken == 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"question": "Q?"}, "question: must be a list ('Q?')"),
        ({"question": ["Q?"]}, "question.0: must be an object ('Q?')"),
        ({"task_type": 3}, "task_type: must be a string (3)"),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_json(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    _, findings = checked(tmp_path, {"video_path": "v.mp4"} | wrong)
    assert [str(one) for one in findings] == [f"{tmp_path / 'file.json'}: sample 0: {told}"]


@pytest.mark.parametrize("counts", [(12_000, 3000, 2000), (10, 4, 1), (7, 0, 3)])
def test_weights_are_those_of_the_loss(counts: tuple[int, int, int]) -> None:
    """One target of each state with the same probability: losses are as the weights."""
    targets = torch.arange(3)
    logits = torch.zeros(3, 5)
    plain = weighted_token_losses(logits, targets, (0, 1, 2), gamma=0.0, balance=None)
    balanced = weighted_token_losses(logits, targets, (0, 1, 2), 0.0, "class_balanced", class_counts=counts)
    frequent = weighted_token_losses(logits, targets, (0, 1, 2), 0.0, "frequency", class_counts=counts)
    for weights, losses in (
        (class_balanced_weights(counts), balanced),
        (frequency_weights(counts), frequent),
    ):
        for weight, loss, base, count in zip(weights, losses, plain, counts, strict=True):
            assert weight == (pytest.approx(float(loss / base), rel=1e-3) if count else 0.0)
    assert class_balanced_weights((0, 0, 0)) == [0, 0, 0] == frequency_weights((0, 0, 0))


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    samples = chat("ssbbr", task_type="event"), chat("rr", task_type="qa")
    statistics, _ = checked(tmp_path, *samples, open_videos=False)
    plot_statistics(statistics, tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes()[:4] == b"\x89PNG"
    plot_statistics(DataStatistics(), tmp_path / "empty.png")
