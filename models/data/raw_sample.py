"""The raw format: a video, its questions and its timed responses, one object of a JSON list for each sample.

The interchange format of Streamo (arXiv 2512.21334) and of data sets made after it. Its times have rules of their
own (`raw_time`), which belong to this format alone.
"""

import math
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from models.data.finding import FieldError, field_error
from models.data.words import is_whole


def _finite(value: float | str | None) -> float | str | None:
    if isinstance(value, float) and not math.isfinite(value):
        raise FieldError("", "not a finite number", repr(value))
    return value


def _whole(value: str) -> str:
    if not is_whole(value):
        raise FieldError("", "holds half a character (lone surrogate)")
    return value


def _or_empty(value: Any) -> Any:
    return "" if value is None else value


def _or_no_list(value: Any) -> Any:
    return [] if value is None else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else _or_no_list(value)


RawTime = Annotated[StrictInt | StrictFloat | StrictStr | None, AfterValidator(_finite)]
WholeStr = Annotated[StrictStr, AfterValidator(_whole)]
Text = Annotated[WholeStr, BeforeValidator(_or_empty)]


class RawQuestion(BaseModel):
    """`time`: when it is asked."""

    model_config = ConfigDict(frozen=True)

    content: Text = ""
    time: RawTime = None


class RawResponse(BaseModel):
    """Either a span, `st_time` to `end_time`, answered after it has ended, or the `time` of an answer."""

    model_config = ConfigDict(frozen=True)

    content: Text = ""
    st_time: RawTime = None
    end_time: RawTime = None
    time: RawTime = None


class RawSample(BaseModel):
    """One sample. `videos` may stand in place of `video_path`; its first is the video. Further names are ignored."""

    model_config = ConfigDict(frozen=True)

    video_name: Text = ""
    video_path: Text = ""
    videos: Annotated[tuple[WholeStr, ...], BeforeValidator(_as_list)] = ()
    task_type: Text = ""
    source: Text = ""
    question: Annotated[tuple[RawQuestion, ...], BeforeValidator(_or_no_list)] = ()
    response: Annotated[tuple[RawResponse, ...], BeforeValidator(_or_no_list)] = ()

    @model_validator(mode="after")
    def _has_a_video(self) -> "RawSample":
        if not self.video:
            raise FieldError("video_path", "missing", "neither video_path nor videos names a video")
        return self

    @property
    def video(self) -> str:
        """The video's path as the sample gives it."""
        return self.video_path or (self.videos[0] if self.videos else "")

    @classmethod
    def parse(cls, element: Any) -> "RawSample":
        """FieldError, naming the first wrong field, for what is no raw sample."""
        if not isinstance(element, dict):
            raise FieldError("sample", "not an object", type(element).__name__)
        try:
            return cls.model_validate(element)
        except ValidationError as error:
            raise field_error(error) from error

    def to_element(self) -> dict[str, Any]:
        """What `parse` reads, without what is not set."""
        return self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def raw_time(value: RawTime, fps: float) -> int | None:
    """The whole number that a raw time means: `uncut_time`, cut to an integer. None where it gives none."""
    time = uncut_time(value, fps)
    return None if time is None else int(time)


def uncut_time(value: RawTime, fps: float) -> int | float | None:
    """The number that a raw time means; None where it gives none.

    A JSON number and a string of an integer are taken as they are: `fps` plays no part. A string of a decimal, of MM:SS
    or of HH:MM:SS is seconds, and is multiplied by `fps`. Whatever else a string holds is no time.
    """
    if value is None:
        return None
    if isinstance(value, int | float):
        return value
    text = value.strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        return None
    if len(parts) > 3:
        return None
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + part
    return seconds * fps if math.isfinite(seconds * fps) else None
