"""The stream format: a sample as the chat of a video, one user turn and one assistant turn for each frame.

`frame_rounds` turns a raw sample's times into the rounds of its frames by the rules of Streamo's converter (arXiv
2512.21334). Two of them belong to this conversion alone, not to our recipe: its tags count frames, not seconds, and a
question that comes late is asked at the first frame too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from models.data.finding import FieldError, field_error
from models.data.raw_sample import RawSample, RawTime, Text, WholeStr, uncut_time
from models.vlm.dialogue import STATE_TOKENS
from models.vlm.state import State

STREAM_MARK = "<stream>"
IMAGE_MARK = "<image>"
# What a product of seconds and a frame rate may be off a whole number that is meant.
_ROUNDING = 1e-6
DEFAULT_QUESTION = "Tell me about each event in this video once it is over."
DEFAULT_SYSTEM_PROMPT = (
    "You watch a video as it plays. The frames reach you one at a time, each behind a tag <Xs-Ys> with the interval "
    "that it stands for. After every frame, decide:\n"
    "</Silence> if nothing that was asked about has begun, or the frame has nothing to do with it;\n"
    "</Standby> if it has begun and is not over, or the frame bears on the question and does not settle it yet;\n"
    "</Response> if it is over, or the question can be answered now: go on with the whole answer, and say only what "
    "has been seen."
)


@dataclass(frozen=True)
class FrameRound:
    """What is asked at a frame ("" for nothing) and what is replied; `text` is empty unless RESPONSE."""

    question: str = ""
    state: State = State.SILENCE
    text: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Something of a raw sample that its rounds do not show as given."""

    field: str
    reason: str
    detail: str = ""


def frame_rounds(
    raw: RawSample, num_frames: int, fps: float, default_question: str = DEFAULT_QUESTION
) -> tuple[list[FrameRound], list[LeftOut]]:
    """The rounds of a video's `num_frames` frames at `fps`, and what they leave out.

    Time t stands for frame max(0, t - 1). Of two questions on one frame the later in the list stays; one beyond the
    end is dropped. A response with both ends of a span makes its frames Standby and the frame after them Response;
    one with a `time` alone makes that frame Response. Responses apply in order, the later over the earlier. Where no
    question stands at frame 0, the first of the list is put there too, or `default_question`.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames {num_frames}: must be at least 1")
    if fps <= 0:
        raise ValueError(f"fps {fps}: must be above 0")
    conversion = _Conversion(num_frames, fps)
    for index, question in enumerate(raw.question):
        conversion.ask(f"question.{index}", question.content, question.time)
    for index, response in enumerate(raw.response):
        field = f"response.{index}"
        start = conversion.time(f"{field}.st_time", response.st_time)
        end = conversion.time(f"{field}.end_time", response.end_time)
        time = conversion.time(f"{field}.time", response.time)
        if start is not None and end is not None:
            conversion.span(field, response.content, start, end)
        elif time is not None:
            conversion.respond(field, response.content, _frame(time))
        else:
            conversion.leave_out(field, "no time that can be read")
    if 0 not in conversion.questions:
        first = raw.question[0].content if raw.question else ""
        if not first:
            conversion.leave_out("question", "no question: the default one is asked")
        conversion.questions[0] = first or default_question
    conversion.tell_cut_times()
    return conversion.rounds(), conversion.left_out


class _Conversion:
    """The frames of one video as the sample's entries fall on them."""

    def __init__(self, num_frames: int, fps: float) -> None:
        self._num_frames = num_frames
        self._fps = fps
        self._replies: list[tuple[State, str]] = [(State.SILENCE, "")] * num_frames
        self.questions: dict[int, str] = {}
        self.left_out: list[LeftOut] = []
        self._cut: list[tuple[str, RawTime]] = []

    def leave_out(self, field: str, reason: str, detail: str = "") -> None:
        self.left_out.append(LeftOut(field, reason, detail))

    def time(self, field: str, value: RawTime) -> int | None:
        time = uncut_time(value, self._fps)
        if time is None:
            if isinstance(value, str) and value.strip():
                self.leave_out(field, "unreadable time, taken as none", repr(value))
            return None
        if abs(time - int(time)) > _ROUNDING:
            self._cut.append((field, value))
        return int(time)

    def tell_cut_times(self) -> None:
        """Once a sample: where times are fractions, most are."""
        if self._cut:
            field, value = self._cut[0]
            more = f", and {len(self._cut) - 1} more" if len(self._cut) > 1 else ""
            self.leave_out(field, "a fraction of a frame is cut off, so it may be early", f"{value!r}{more}")

    def ask(self, field: str, content: str, at: RawTime) -> None:
        time = self.time(f"{field}.time", at)
        if not content:
            self.leave_out(f"{field}.content", "empty")
        elif time is None:
            self.leave_out(field, "no time that can be read")
        elif _frame(time) >= self._num_frames:
            self.leave_out(
                field, "beyond the end of the video", f"frame {_frame(time)} of {self._num_frames}"
            )
        else:
            if _frame(time) in self.questions:
                self.leave_out(
                    field, "replaces an earlier question on the same frame", f"frame {_frame(time)}"
                )
            self.questions[_frame(time)] = content

    def span(self, field: str, content: str, start: int, end: int) -> None:
        first, last = _frame(start), _frame(end)
        if first > last:
            self.leave_out(field, "its end is before its start: no Standby", f"{start} to {end}")
        for frame in range(first, min(last + 1, self._num_frames)):
            self._reply(field, frame, State.STANDBY, "")
        self.respond(field, content, last + 1)

    def respond(self, field: str, content: str, frame: int) -> None:
        if not content:
            self.leave_out(f"{field}.content", "empty: no Response")
        elif frame >= self._num_frames:
            self.leave_out(field, "no frame left for the Response", f"frame {frame} of {self._num_frames}")
        else:
            if not content.strip():
                self.leave_out(f"{field}.content", "white space alone: a Response without words")
            self._reply(field, frame, State.RESPONSE, content)

    def rounds(self) -> list[FrameRound]:
        return [FrameRound(self.questions.get(i, ""), *reply) for i, reply in enumerate(self._replies)]

    def _reply(self, field: str, frame: int, state: State, text: str) -> None:
        if self._replies[frame][0] is State.RESPONSE:
            self.leave_out(field, "overwrites an earlier Response", f"frame {frame}")
        self._replies[frame] = (state, text)


def _frame(time: int) -> int:
    return max(0, time - 1)


class Message(BaseModel):
    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant"]
    content: WholeStr


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class StreamSample(BaseModel):
    """One sample: a system turn, then for each frame a user turn that ends in `<stream>` and the assistant's reply."""

    model_config = ConfigDict(frozen=True)

    messages: tuple[Message, ...]
    videos: Annotated[tuple[WholeStr, ...], BeforeValidator(_as_list)]
    video_name: Text = ""
    task_type: Text = ""
    source: Text = ""

    @model_validator(mode="after")
    def _is_whole(self) -> "StreamSample":
        if not self.videos:
            raise FieldError("videos", "missing")
        parse_rounds(self.messages, STREAM_MARK)
        return self

    @property
    def rounds(self) -> list["TaggedRound"]:
        return parse_rounds(self.messages, STREAM_MARK)

    @classmethod
    def make(
        cls, raw: RawSample, rounds: Sequence[FrameRound], video: str, system_prompt: str
    ) -> "StreamSample":
        """FieldError as `parse`."""
        return cls.parse(
            {
                "messages": messages_of(rounds, system_prompt, STREAM_MARK),
                "videos": (video,),
                "video_name": raw.video_name,
                "task_type": raw.task_type,
                "source": raw.source,
            }
        )

    @classmethod
    def parse(cls, element: Any) -> "StreamSample":
        """FieldError, naming the first wrong field, for what is no sample of this format."""
        try:
            return cls.model_validate(element)
        except ValidationError as error:
            raise field_error(error) from error

    def to_element(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class TaggedRound:
    """A round as a chat shows it; `start_s` and `end_s` are what its tag says."""

    question: str
    start_s: float
    end_s: float
    state: State
    text: str


def messages_of(rounds: Sequence[FrameRound], system_prompt: str, mark: str) -> tuple[Message, ...]:
    """The chat of these rounds. The tag of frame i is `<is-(i+1)s>`, whatever the frame rate."""
    messages = [Message(role="system", content=system_prompt)]
    for index, turn in enumerate(rounds):
        question = f"{turn.question}\n" if turn.question else ""
        reply = STATE_TOKENS[turn.state] + (f" {turn.text}" if turn.state is State.RESPONSE else "")
        messages.append(Message(role="user", content=f"{question}<{index}s-{index + 1}s>\n{mark}"))
        messages.append(Message(role="assistant", content=reply))
    return tuple(messages)


_USER = re.compile(r"(?:(.*)\n)?<(\d+(?:\.\d+)?)s-(\d+(?:\.\d+)?)s>\n(<stream>|<image>)", re.DOTALL)
_REPLY = re.compile(r"(</Silence>|</Standby>|</Response>)(.*)", re.DOTALL)


def parse_rounds(messages: Sequence[Message], mark: str) -> list[TaggedRound]:
    """The rounds of a chat. FieldError, naming the message, where turns, tags or replies are not of the format."""
    if not messages or messages[0].role != "system":
        raise FieldError("messages.0.role", "the first turn must be the system's")
    if len(messages) % 2 == 0:
        raise FieldError("messages", "a user turn has no reply" if len(messages) > 1 else "no rounds")
    if len(messages) == 1:
        raise FieldError("messages", "no rounds")
    rounds = []
    for index in range(1, len(messages), 2):
        rounds.append(_parse_round(messages, index, mark))
        if len(rounds) > 1 and rounds[-1].start_s < rounds[-2].end_s:
            raise FieldError(f"messages.{index}.content", "its time tag is before the end of the one before")
    return rounds


def _parse_round(messages: Sequence[Message], index: int, mark: str) -> TaggedRound:
    user, assistant = messages[index], messages[index + 1]
    for offset, (message, role) in enumerate(((user, "user"), (assistant, "assistant"))):
        if message.role != role:
            raise FieldError(f"messages.{index + offset}.role", f"must be {role}", message.role)
    asked = _USER.fullmatch(user.content)
    if asked is None or asked[4] != mark:
        raise FieldError(
            f"messages.{index}.content", f"must end in a time tag and {mark}", repr(user.content[-60:])
        )
    if float(asked[3]) < float(asked[2]):
        raise FieldError(
            f"messages.{index}.content", "its time tag ends before it begins", repr(user.content[-60:])
        )
    replied = _REPLY.fullmatch(assistant.content)
    if replied is None:
        raise FieldError(
            f"messages.{index + 1}.content", "must begin with a state token", repr(assistant.content[:60])
        )
    state, text = State(STATE_TOKENS.index(replied[1])), replied[2].removeprefix(" ")
    if bool(text) != (state is State.RESPONSE):
        reason = "a Response without text" if state is State.RESPONSE else "only Response carries text"
        raise FieldError(f"messages.{index + 1}.content", reason, repr(assistant.content[:60]))
    return TaggedRound(asked[1] or "", float(asked[2]), float(asked[3]), state, text)


def check_told(rounds: Sequence[TaggedRound]) -> None:
    """FieldError for a Response of white space alone, as for one without text: the conversion makes it where a raw
    sample has it, but there is nothing in it to learn."""
    for index, one in enumerate(rounds):
        if one.state is State.RESPONSE and not one.text.strip():
            field = f"messages.{2 * index + 2}.content"
            raise FieldError(field, "a Response without words", repr(one.text[:60]))
