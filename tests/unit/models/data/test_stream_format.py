"""Golden rounds, each written by hand from the rules of the format; none was made by the code under test."""

import math
from typing import Any

import pytest

from models.data.finding import FieldError
from models.data.raw_sample import RawSample, raw_time
from models.data.stream_format import DEFAULT_QUESTION, StreamSample, frame_rounds

VIDEO = {"video_path": "v.mp4"}
SILENCE, STANDBY = "</Silence>", "</Standby>"


def asked(content: str, time: Any = None) -> dict[str, Any]:
    return {"content": content, "time": time}


def span(content: str, start: Any, end: Any, time: Any = "") -> dict[str, Any]:
    return {"content": content, "st_time": start, "end_time": end, "time": time}


def at(content: str, time: Any) -> dict[str, Any]:
    return {"content": content, "st_time": "", "end_time": "", "time": time}


FIRST = asked("Q?", 0)


def converted(
    num_frames: int, question: Any = (FIRST,), response: Any = (), fps: float = 1.0
) -> tuple[list[str], dict[int, str], list[str]]:
    """Replies, the questions by frame, and the fields that were left out."""
    raw = RawSample.parse(VIDEO | {"question": list(question), "response": list(response)})
    rounds, left_out = frame_rounds(raw, num_frames, fps)
    sample = StreamSample.make(raw, rounds, "v.mp4", "S")
    replies = [message.content for message in sample.messages[2::2]]
    questions = {index: turn.question for index, turn in enumerate(rounds) if turn.question}
    return replies, questions, [one.field for one in left_out]


@pytest.mark.parametrize(
    ("value", "fps", "time"),
    [
        # Numbers and strings of integers are taken as they are.
        (5, 2.0, 5),
        (5.9, 2.0, 5),
        (-0.5, 2.0, 0),
        ("5", 2.0, 5),
        (" 5 ", 2.0, 5),
        ("-3", 2.0, -3),
        # Decimals and clock times are seconds.
        ("5.0", 2.0, 10),
        ("5.4", 2.0, 10),
        ("5.5", 1.0, 5),
        (".5", 4.0, 2),
        ("01:05", 1.0, 65),
        ("01:05", 2.0, 130),
        ("0:01.5", 2.0, 3),
        ("1:01:01", 1.0, 3661),
        ("00:00", 1.0, 0),
        ("90:00", 0.5, 2700),
        # And the rest is no time.
        (None, 1.0, None),
        ("", 1.0, None),
        ("  ", 1.0, None),
        ("soon", 1.0, None),
        ("1:2:3:4", 1.0, None),
        ("5s", 1.0, None),
        ("1:", 1.0, None),
        ("inf", 1.0, None),
        ("nan", 1.0, None),
    ],
)
def test_raw_times(value: Any, fps: float, time: int | None) -> None:
    assert raw_time(value, fps) == time


@pytest.mark.parametrize(
    ("fps", "told"),
    [
        # 4.7 seconds are cut to 4, which stands for frame 3: seconds 3 to 4, before it is over.
        (1.0, [("response.0.end_time", "'4.7', and 2 more")]),
        (2.0, [("response.0.end_time", "'4.7', and 1 more")]),
        # Whole frames, but for a JSON number, which no rate multiplies.
        (10.0, [("response.2.time", "7.2")]),
    ],
)
def test_fractions_that_are_cut_off_are_told_once_a_sample(fps: float, told: list[tuple[str, str]]) -> None:
    response = [span("A", "1.0", "4.7"), at("B", "6.5"), at("C", 7.2)]
    raw = RawSample.parse(VIDEO | {"question": [FIRST], "response": response})
    rounds, left_out = frame_rounds(raw, 80, fps)
    cut = [(one.field, one.detail) for one in left_out if one.reason.startswith("a fraction of a frame")]
    assert cut == told and len(left_out) == 1
    # It changes nothing.
    assert [index for index, turn in enumerate(rounds) if turn.text] == sorted(
        [int(4.7 * fps), int(6.5 * fps) - 1, 6]
    )


def test_the_chat_of_a_sample_to_the_letter() -> None:
    raw = RawSample.parse(
        {
            "video_name": "kitchen",
            "video_path": "kitchen.mp4",
            "task_type": "event",
            "source": "",
            "question": [asked("What is done?", "0"), asked("And the pan?", 3)],
            "response": [span("the tap is closed", "1", "2"), at("on the stove", 4)],
        }
    )
    rounds, left_out = frame_rounds(raw, 4, 1.0)
    assert left_out == []
    assert StreamSample.make(raw, rounds, "/data/kitchen.mp4", "Watch.").to_element() == {
        "messages": [
            {"role": "system", "content": "Watch."},
            {"role": "user", "content": "What is done?\n<0s-1s>\n<stream>"},
            {"role": "assistant", "content": "</Standby>"},
            {"role": "user", "content": "<1s-2s>\n<stream>"},
            {"role": "assistant", "content": "</Standby>"},
            {"role": "user", "content": "And the pan?\n<2s-3s>\n<stream>"},
            {"role": "assistant", "content": "</Response> the tap is closed"},
            {"role": "user", "content": "<3s-4s>\n<stream>"},
            {"role": "assistant", "content": "</Response> on the stove"},
        ],
        "videos": ["/data/kitchen.mp4"],
        "video_name": "kitchen",
        "task_type": "event",
    }


def test_tags_count_frames_whatever_the_frame_rate() -> None:
    raw = RawSample.parse(VIDEO | {"question": [asked("Q?", 0)], "response": [at("A", "2.0")]})
    sample = StreamSample.make(raw, frame_rounds(raw, 5, 2.0)[0], "v.mp4", "S")
    assert [m.content.split("\n")[-2] for m in sample.messages[1::2]] == [
        f"<{i}s-{i + 1}s>" for i in range(5)
    ]
    # 2.0 seconds are 4 frames, so the answer is on frame 3.
    assert [m.content for m in sample.messages[2::2]] == [SILENCE] * 3 + ["</Response> A", SILENCE]


@pytest.mark.parametrize(
    ("response", "replies"),
    [
        # A span 3..5: Standby on frames 2, 3, 4, Response on frame 5.
        ([span("A", 3, 5)], [SILENCE] * 2 + [STANDBY] * 3 + ["</Response> A", SILENCE, SILENCE]),
        # Times 0 and 1 both stand for frame 0.
        ([span("A", 0, 1)], [STANDBY, "</Response> A"] + [SILENCE] * 6),
        ([span("A", -4, 0)], [STANDBY, "</Response> A"] + [SILENCE] * 6),
        ([at("A", 0)], ["</Response> A"] + [SILENCE] * 7),
        ([at("A", 1)], ["</Response> A"] + [SILENCE] * 7),
        ([at("A", 2)], [SILENCE, "</Response> A"] + [SILENCE] * 6),
        ([at("A", 8)], [SILENCE] * 7 + ["</Response> A"]),
        # The last frame of the video is Standby, so no frame is left for the Response.
        ([span("A", 7, 8)], [SILENCE] * 6 + [STANDBY] * 2),
        ([span("A", 7, 7)], [SILENCE] * 6 + [STANDBY, "</Response> A"]),
        ([span("A", 7, 99)], [SILENCE] * 6 + [STANDBY] * 2),
        ([span("A", 20, 30)], [SILENCE] * 8),
        ([at("A", 9)], [SILENCE] * 8),
        # Its end before its start: no Standby, and the Response is where the end says.
        ([span("A", 6, 3)], [SILENCE] * 3 + ["</Response> A"] + [SILENCE] * 4),
        # No text: Standby stays, nothing is said.
        ([span("", 2, 3)], [SILENCE, STANDBY, STANDBY] + [SILENCE] * 5),
        ([at("", 2)], [SILENCE] * 8),
        # White space is text.
        ([at("  ", 2)], [SILENCE, "</Response>   "] + [SILENCE] * 6),
        # A span wins over `time`; half a span is none.
        ([span("A", 2, 2, time=7)], [SILENCE, STANDBY, "</Response> A"] + [SILENCE] * 5),
        ([span("A", 2, "", time=7)], [SILENCE] * 6 + ["</Response> A", SILENCE]),
        ([span("A", "", 3)], [SILENCE] * 8),
        # In order, the later over the earlier: as the Response and as the Standby.
        ([at("A", 3), at("B", 3)], [SILENCE] * 2 + ["</Response> B"] + [SILENCE] * 5),
        ([at("A", 3), span("B", 2, 4)], [SILENCE] + [STANDBY] * 3 + ["</Response> B"] + [SILENCE] * 3),
        (
            [span("B", 2, 4), at("A", 3)],
            [SILENCE, STANDBY, "</Response> A", STANDBY, "</Response> B"] + [SILENCE] * 3,
        ),
        (
            [span("A", 1, 2), span("B", 3, 4)],
            [STANDBY, STANDBY, STANDBY, STANDBY, "</Response> B"] + [SILENCE] * 3,
        ),
    ],
)
def test_responses_on_eight_frames(response: list[dict[str, Any]], replies: list[str]) -> None:
    assert converted(8, response=response)[0] == replies


@pytest.mark.parametrize(
    ("question", "questions"),
    [
        ([asked("Q?", 0)], {0: "Q?"}),
        ([asked("Q?", 1)], {0: "Q?"}),
        # A late one is asked at the first frame too, and stays at its own.
        ([asked("Q?", 4)], {0: "Q?", 3: "Q?"}),
        ([asked("Q?", 4), asked("R?", 6)], {0: "Q?", 3: "Q?", 5: "R?"}),
        # The first is the first of the list, not the earliest.
        ([asked("R?", 6), asked("Q?", 4)], {0: "R?", 3: "Q?", 5: "R?"}),
        ([asked("R?", 6), asked("Q?", 1)], {0: "Q?", 5: "R?"}),
        # One on the same frame replaces the one before.
        ([asked("Q?", 0), asked("R?", 1)], {0: "R?"}),
        # Beyond the end: dropped, yet the first is still asked at frame 0.
        ([asked("Q?", 8)], {0: "Q?", 7: "Q?"}),
        ([asked("Q?", 9)], {0: "Q?"}),
        ([asked("Q?", 9), asked("R?", 2)], {0: "Q?", 1: "R?"}),
        # Without a time it stands at no frame of its own.
        ([asked("Q?")], {0: "Q?"}),
        ([asked("Q?", "later"), asked("R?", 2)], {0: "Q?", 1: "R?"}),
        # No question, or a first one that is empty.
        ([], {0: DEFAULT_QUESTION}),
        ([asked("", 0)], {0: DEFAULT_QUESTION}),
        ([asked("", 0), asked("R?", 3)], {0: DEFAULT_QUESTION, 2: "R?"}),
    ],
)
def test_questions_on_eight_frames(question: list[dict[str, Any]], questions: dict[int, str]) -> None:
    assert converted(8, question=question)[1] == questions


@pytest.mark.parametrize(
    ("question", "response", "fields"),
    [
        ([asked("Q?", 0)], [span("A", 2, 3), at("B", "00:07")], []),
        ([asked("Q?", 99)], [], ["question.0"]),
        ([asked("Q?", 0), asked("R?", 0)], [], ["question.1"]),
        ([asked("Q?", "noon")], [], ["question.0.time", "question.0"]),
        ([], [], ["question"]),
        ([asked("Q?", 0)], [at("A", 99)], ["response.0"]),
        ([asked("Q?", 0)], [span("", 1, 2)], ["response.0.content"]),
        ([asked("Q?", 0)], [at("  ", 2)], ["response.0.content"]),
        ([asked("Q?", 0)], [at("A", 2), at("B", 2)], ["response.1"]),
        ([asked("Q?", 0)], [span("A", "1", "x")], ["response.0.end_time", "response.0"]),
        ([asked("Q?", 0)], [span("A", 5, 2)], ["response.0"]),
    ],
)
def test_what_the_rounds_leave_out_is_told(question: Any, response: Any, fields: list[str]) -> None:
    assert converted(8, question, response)[2] == fields


@pytest.mark.parametrize(
    ("element", "field"),
    [
        ([], "sample"),
        ({}, "video_path"),
        ({"video_path": "", "videos": []}, "video_path"),
        (VIDEO | {"question": "What?"}, "question"),
        (VIDEO | {"question": [{"content": 5, "time": 1}]}, "question.0.content"),
        (VIDEO | {"question": [asked("Q?"), asked("Q?", True)]}, "question.1.time"),
        (VIDEO | {"response": [at("A", 1), {"content": "A", "time": [1]}]}, "response.1.time"),
        (VIDEO | {"response": [at("A", math.nan)]}, "response.0.time"),
        (VIDEO | {"response": [span("A", 1, math.inf)]}, "response.0.end_time"),
        (VIDEO | {"response": ["A"]}, "response.0"),
        ({"video_path": 7}, "video_path"),
    ],
)
def test_what_is_no_raw_sample_is_told_with_its_field(element: Any, field: str) -> None:
    with pytest.raises(FieldError) as told:
        RawSample.parse(element)
    assert told.value.field == field


def test_missing_and_null_are_the_same_and_videos_stand_in_for_the_path() -> None:
    raw = RawSample.parse(
        {"videos": ["a.mp4", "b.mp4"], "question": None, "response": None, "source": None, "id": 3}
    )
    assert (raw.video, raw.question, raw.response, raw.source) == ("a.mp4", (), (), "")
    assert RawSample.parse({"videos": "a.mp4"}).video == "a.mp4"
    assert RawSample.parse({"video_path": "c.mp4", "videos": ["a.mp4"]}).video == "c.mp4"
    assert RawSample.parse(raw.to_element()) == raw


GOOD = {
    "messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "One\ntwo?\n<0s-1s>\n<stream>"},
        {"role": "assistant", "content": "</Standby>"},
        {"role": "user", "content": "<1s-2.5s>\n<stream>"},
        {"role": "assistant", "content": "</Response> yes"},
    ],
    "videos": ["v.mp4"],
}


def test_a_chat_is_read_back() -> None:
    first, second = StreamSample.parse(GOOD).rounds
    assert (first.question, first.start_s, first.end_s, first.state.name, first.text) == (
        "One\ntwo?", 0.0, 1.0, "STANDBY", "",
    )  # fmt: skip
    assert (second.question, second.end_s, second.state.name, second.text) == ("", 2.5, "RESPONSE", "yes")
    assert StreamSample.parse(GOOD).to_element() == GOOD


@pytest.mark.parametrize(
    ("index", "message", "field"),
    [
        (0, {"role": "user", "content": "S"}, "messages.0.role"),
        (1, {"role": "assistant", "content": "</Silence>"}, "messages.1.role"),
        (1, {"role": "user", "content": "<0s-1s>\n<image>"}, "messages.1.content"),
        (1, {"role": "user", "content": "<0-1>\n<stream>"}, "messages.1.content"),
        (1, {"role": "user", "content": "<0s-9s>\n<stream>"}, "messages.3.content"),
        (3, {"role": "user", "content": "<3s-2s>\n<stream>"}, "messages.3.content"),
        (2, {"role": "assistant", "content": "yes"}, "messages.2.content"),
        (2, {"role": "assistant", "content": "</Standby> yes"}, "messages.2.content"),
        (4, {"role": "assistant", "content": "</Response>"}, "messages.4.content"),
        (4, {"role": "judge", "content": "</Silence>"}, "messages.4.role"),
    ],
)
def test_a_chat_that_is_not_of_the_format_is_told_with_its_message(
    index: int, message: dict[str, str], field: str
) -> None:
    messages = list(GOOD["messages"])
    messages[index] = message  # type: ignore[call-overload]
    with pytest.raises(FieldError) as told:
        StreamSample.parse(GOOD | {"messages": messages})
    assert told.value.field == field


@pytest.mark.parametrize(
    ("kept", "field"), [(0, "messages"), (1, "messages"), (2, "messages"), (4, "messages")]
)
def test_a_chat_that_breaks_off_is_told(kept: int, field: str) -> None:
    with pytest.raises(FieldError) as told:
        StreamSample.parse(GOOD | {"messages": GOOD["messages"][:kept]})
    assert told.value.field.startswith(field)


def test_callers_mistakes_are_told() -> None:
    raw = RawSample.parse(VIDEO)
    with pytest.raises(ValueError, match="num_frames"):
        frame_rounds(raw, 0, 1.0)
    with pytest.raises(ValueError, match="fps"):
        frame_rounds(raw, 3, 0.0)
