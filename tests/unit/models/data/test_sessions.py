import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models.data.finding import BrokenSample, Finding
from models.data.place.clip import draw_clip
from models.data.place.data_set import raw_sample, write_video
from models.data.sessions import Session, SessionFile
from models.data.video_frames import frames_at
from models.vlm.frame_size import FrameBudget
from models.vlm.state import State

_LETTERS = {State.SILENCE: "-", State.STANDBY: "s", State.RESPONSE: "R"}


def write_counting_video(path: Path, num_frames: int, fps: int = 10) -> None:
    """Frame i is as bright as 2 * i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.options = {"crf": "10"}
        for index in range(num_frames):
            picture = np.full((64, 64, 3), 2 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_counting_video(folder / "a.mp4", num_frames=100)
    return folder


def sessions_of(folder: Path, element: dict[str, Any], fps: float = 1.0) -> list[Session]:
    path = folder / "samples.json"
    path.write_text(json.dumps([element]))
    return SessionFile(path, folder, fps).sessions(0)


def letters(session: Session) -> str:
    return "".join(_LETTERS[one.state] for one in session.rounds)


def raw(question: list[dict[str, Any]], response: list[dict[str, Any]]) -> dict[str, Any]:
    return {"video_path": "a.mp4", "task_type": "event", "question": question, "response": response}


def test_nothing_is_told_before_it_is_over(folder: Path) -> None:
    (session,) = sessions_of(
        folder,
        raw(
            [{"content": "Report deliveries.", "time": "0.0"}],
            [
                {"content": "one", "st_time": "1.5", "end_time": "4.0"},
                {"content": "two", "st_time": "3.2", "end_time": "3.9"},
                {"content": "three", "time": "7.1"},
                {"content": "too late", "st_time": "8.0", "end_time": "20.0"},
            ],
        ),
    )
    assert letters(session) == "--ssR---Rs"
    assert [one.text for one in session.rounds if one.text] == ["one; two", "three"]
    assert [(one.start_ms, one.end_ms) for one in session.rounds[:3]] == [(0, 0), (0, 1000), (1000, 2000)]
    assert session.since == (0, 1, 2, 3, 2, 5, 6, 7, 8, 9)
    assert session.frame_times_ms == tuple(range(0, 10_000, 1000))
    assert (session.first_live, session.instruction) == (0, "Report deliveries.")


def test_whole_numbers_are_seconds_at_any_rate(folder: Path) -> None:
    (session,) = sessions_of(folder, raw([], [{"content": "one", "st_time": 1, "end_time": "2"}]), fps=2.0)
    assert letters(session) == "--ssR" + 15 * "-"


@pytest.mark.parametrize("end_time", [4.8, "4.8", "0:04.8"])
def test_a_fraction_of_a_second_is_not_cut_off(end_time: float | str, folder: Path) -> None:
    response = {"content": "one", "st_time": 1.2, "end_time": end_time}
    asked = {"content": "Who?", "time": 0.5}
    (session,) = sessions_of(folder, raw([asked], [response]))
    assert (letters(session), session.first_live) == ("--sssR----", 1)
    (session,) = sessions_of(folder, raw([asked], [response]), fps=5.0)
    assert letters(session) == 6 * "-" + 18 * "s" + "R" + 25 * "-"


def test_times_before_the_video_are_its_beginning(folder: Path) -> None:
    for time in (-0.5, "-0.5", -1, "-1"):
        (session,) = sessions_of(folder, raw([], [{"content": "one", "time": time}]))
        assert letters(session) == "R" + 9 * "-"


def test_a_late_question_has_silent_past_rounds_and_a_later_one_begins_another_session(folder: Path) -> None:
    first, second = sessions_of(
        folder,
        raw(
            [{"content": "Who?", "time": "3.0"}, {"content": "When?", "time": "6.0"}],
            [
                {"content": "early", "st_time": "0.5", "end_time": "1.5"},
                {"content": "one", "st_time": "1.0", "end_time": "5.0"},
                {"content": "two", "st_time": "5.0", "end_time": "8.0"},
            ],
        ),
    )
    assert (first.instruction, first.first_live, letters(first)) == ("Who?", 3, "---ssR")
    assert first.since[5] == 1
    assert (second.instruction, second.first_live, letters(second)) == ("When?", 6, "------ssR-")


def test_what_no_session_teaches_is_told(folder: Path) -> None:
    path = folder / "left_out.json"
    element = raw(
        [
            {"content": "Who?", "time": "3.0"},
            {"content": " ", "time": "4.0"},
            {"content": "When?", "time": "30.0"},
        ],
        [
            {"content": "one", "st_time": "1.0", "end_time": "5.0"},
            {"content": "early", "time": "2.0"},
            {"content": "late", "st_time": "8.0", "end_time": "12.0"},
            {"content": "", "time": "6.0"},
            {"content": "untimed", "st_time": "6.0"},
            {"content": "turned", "st_time": "7.0", "end_time": "6.0"},
            {"content": " \n", "time": "7.0"},
        ],
    )
    path.write_text(json.dumps([{"video_path": "a.mp4"}, element]))
    findings: list[Finding] = []
    SessionFile(path, folder, 1.0).sessions(1, findings.append)
    assert not any(one.broken for one in findings)
    assert [(one.index, one.field, one.reason) for one in findings] == [
        (1, "question.1.content", "empty"),
        (1, "response.1", "over before anything is asked"),
        (1, "response.2", "no frame left for the Response"),
        (1, "response.3.content", "empty"),
        (1, "response.4", "no time that can be read"),
        (1, "response.5", "its end is before its start: no Standby"),
        (1, "response.6.content", "empty"),
        (1, "question.2", "no frame between it and the next question or the end of the video"),
    ]
    findings.clear()
    SessionFile(path, folder, 1.0).sessions(0, findings.append)
    assert [one.reason for one in findings] == ["no question: the default one is asked"]


def test_what_ended_before_a_question_is_no_answer_to_it(folder: Path) -> None:
    path = folder / "between.json"
    element = raw(
        [{"content": "Which cars came?", "time": "0.0"}, {"content": "Who came?", "time": "6.0"}],
        [
            {"content": "a car came", "st_time": "3.0", "end_time": "5.5"},
            {"content": "a bus came", "time": "4.5"},
            {"content": "a person came", "st_time": "4.0", "end_time": "6.0"},
        ],
    )
    path.write_text(json.dumps([element]))
    findings: list[Finding] = []
    first, second = SessionFile(path, folder, 1.0).sessions(0, findings.append)
    assert (letters(first), first.rounds[5].text) == ("---ssR", "a bus came")
    assert (letters(second), second.rounds[6].text) == ("------R---", "a person came")
    assert [(one.field, one.reason) for one in findings] == [
        ("response.0", "no frame between its end and the next question")
    ]


def test_what_is_told_as_left_out_is_not_taught(folder: Path) -> None:
    path = folder / "before.json"
    element = raw(
        [{"content": "Who?", "time": "3.0"}],
        [
            {"content": "between two frames", "time": "2.5"},
            {"content": "turned and early", "st_time": "2.0", "end_time": "1.0"},
        ],
    )
    path.write_text(json.dumps([element]))
    findings: list[Finding] = []
    (session,) = SessionFile(path, folder, 1.0).sessions(0, findings.append)
    assert letters(session) == 10 * "-"
    assert [(one.field, one.reason) for one in findings] == [
        ("response.0", "over before anything is asked"),
        ("response.1", "over before anything is asked"),
    ]


def test_a_simulated_clip_comes_back_as_it_was_labelled(folder: Path) -> None:
    clip = draw_clip(3, "train", 12, "event", start_ms=0)
    write_video(clip, folder / "videos.mp4", 10, 112, 144)
    element = raw_sample(clip, "x").to_element() | {"video_path": "videos.mp4"}
    (session,) = sessions_of(folder, element, fps=10.0)
    told = {turn.end_ms: turn.text for turn in clip.rounds if turn.text}
    assert {
        time: one.text for time, one in zip(session.frame_times_ms, session.rounds, strict=True) if one.text
    }
    for time_ms, text in told.items():
        # Ten frames a second hold every moment that was labelled, and a span may end between two of them.
        at = session.frame_times_ms.index(time_ms)
        assert text in [one.text for one in session.rounds[at - 20 : at + 1]]


def stream(replies: str, questions: dict[int, str]) -> dict[str, Any]:
    """A letter for each reply; Response i says "told i"."""
    messages = [{"role": "system", "content": "Watch."}]
    for index, letter in enumerate(replies):
        reply = {"-": "</Silence>", "s": "</Standby>", "R": f"</Response> told {index}"}[letter]
        asked = f"{questions[index]}\n" if index in questions else ""
        messages += [
            {"role": "user", "content": f"{asked}<{index}s-{index + 1}s>\n<stream>"},
            {"role": "assistant", "content": reply},
        ]
    return {"messages": messages, "videos": ["a.mp4"], "task_type": "qa"}


def test_the_stream_format_stays_as_it_is(folder: Path) -> None:
    # The question at the first frame is the converter's copy of the late one.
    element = stream("-ss-R", {0: "What colour?", 3: "What colour?"})
    (session,) = sessions_of(folder, element, fps=2.0)
    assert (letters(session), session.first_live) == ("----R", 3)
    assert session.rounds[4].text == "told 4"
    assert session.frame_times_ms == (0, 500, 1000, 1500, 2000)
    assert [(one.start_ms, one.end_ms) for one in session.rounds[:2]] == [(0, 1000), (1000, 2000)]
    with pytest.raises(BrokenSample, match=r"fewer frames at 0\.3 fps"):
        sessions_of(folder, element, fps=0.3)


@pytest.mark.parametrize(
    ("replies", "questions", "expected"),
    [
        # A copy of the last question: the first of the sample's list need not be the earliest.
        ("--s-R-R", {0: "B?", 2: "A?", 5: "B?"}, [("A?", 2, "--s-R"), ("B?", 5, "------R")]),
        # What is told while it stands would be lost with it: it was asked twice.
        ("-sR-R", {0: "A?", 3: "A?"}, [("A?", 0, "-sR"), ("A?", 3, "----R")]),
        ("-R-R", {0: "A?", 2: "B?"}, [("A?", 0, "-R"), ("B?", 2, "---R")]),
    ],
)
def test_the_converters_copy_of_a_late_question_is_no_question(
    folder: Path, replies: str, questions: dict[int, str], expected: list[tuple[str, int, str]]
) -> None:
    sessions = sessions_of(folder, stream(replies, questions))
    assert [(one.instruction, one.first_live, letters(one)) for one in sessions] == expected


def test_what_a_chat_tells_before_it_is_asked_is_named(folder: Path) -> None:
    path = folder / "unasked.json"
    path.write_text(json.dumps([stream("-RR-R", {3: "A?"})]))
    findings: list[Finding] = []
    (session,) = SessionFile(path, folder, 1.0).sessions(0, findings.append)
    assert letters(session) == "----R"
    assert [(one.field, one.reason, one.detail, one.broken) for one in findings] == [
        ("messages.4.content", "told before anything is asked", "'told 1'", False),
        ("messages.6.content", "told before anything is asked", "'told 2'", False),
    ]


def test_a_response_of_white_space_is_never_taught(folder: Path) -> None:
    blank = {"content": "  ", "st_time": "2.0", "end_time": "4.0"}
    (session,) = sessions_of(folder, raw([], [blank, {"content": "one", "time": "6.0"}]))
    assert letters(session) == "------R---"
    chat = stream("-R-", {0: "A?"})
    chat["messages"][4]["content"] = "</Response>   "
    with pytest.raises(BrokenSample, match=r"messages\.4\.content: a Response without words"):
        sessions_of(folder, chat)


def test_spans_that_are_told_move_with_the_tags(folder: Path) -> None:
    def session_telling(text: str) -> Session:
        (session,) = sessions_of(folder, raw([], [{"content": text, "time": "2.0"}]))
        return session

    for text, later in (
        ("1.5s to 2s", "3601.5s to 3602s"),
        ("It was there from 1 to 2 seconds.", "It was there from 3601 to 3602 seconds."),
        ("Between 0.5 s and 2 s.", "Between 3600.5 s and 3602 s."),
        ("A red car.", "A red car."),
    ):
        session = session_telling(text)
        assert session.can_shift
        moved = session.shifted(3_600_000)
        assert moved.rounds[2].text == later
        assert (moved.rounds[2].start_ms, moved.rounds[2].end_ms) == (3_601_000, 3_602_000)
        assert moved.frame_times_ms == session.frame_times_ms
    # What else holds a number might be a time.
    assert not session_telling("At 2 s it began.").can_shift
    assert not session_telling("1s to 2s, then 3 people").can_shift


def test_broken_samples_name_file_sample_and_field(folder: Path) -> None:
    with pytest.raises(BrokenSample, match=r"samples\.json: sample 0: video_path: not found"):
        sessions_of(folder, raw([], []) | {"video_path": "none.mp4"})
    # Without a root, a path is below the folder of its file where it is not one by itself.
    path = folder / "samples.json"
    path.write_text(json.dumps([raw([], [])]))
    (session,) = SessionFile(path, None, 1.0).sessions(0)
    assert session.video == folder / "a.mp4"
    with pytest.raises(BrokenSample, match=r"response\.0\.content"):
        sessions_of(folder, raw([], [{"content": 3}]))
    with pytest.raises(ValueError, match="fps 0"):
        SessionFile(folder / "samples.json", folder, 0)


def test_each_moment_gets_the_frame_that_shows_it(folder: Path) -> None:
    budget = FrameBudget(28 * 28, 56 * 56)
    for times_ms in ([0, 1000, 2000], [5500, 5600, 7300], [9000, 9900, 10_000]):
        pictures = list(frames_at(folder / "a.mp4", times_ms, budget))
        assert {picture.shape for picture in pictures} == {(56, 56, 3)}
        for time_ms, picture in zip(times_ms, pictures, strict=True):
            assert abs(float(picture.mean()) - 2 * min(time_ms // 100, 99)) < 4, time_ms
    with pytest.raises(ValueError, match="breaks off"):
        list(frames_at(folder / "a.mp4", [11_000], budget))
