"""The image format: the stream format with the frames as picture files, one for each `<image>`."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from models.data.finding import FieldError, field_error
from models.data.raw_sample import RawSample, Text, WholeStr
from models.data.stream_format import (
    IMAGE_MARK,
    FrameRound,
    Message,
    TaggedRound,
    messages_of,
    parse_rounds,
)


class ImageSample(BaseModel):
    """One sample; `images` has a file for each round, in order."""

    model_config = ConfigDict(frozen=True)

    messages: tuple[Message, ...]
    images: tuple[WholeStr, ...]
    video_name: Text = ""
    task_type: Text = ""
    source: Text = ""

    @model_validator(mode="after")
    def _is_whole(self) -> "ImageSample":
        num_rounds = len(parse_rounds(self.messages, IMAGE_MARK))
        if num_rounds != len(self.images):
            raise FieldError(
                "images", "not one for each round", f"{len(self.images)} for {num_rounds} rounds"
            )
        return self

    @property
    def rounds(self) -> list[TaggedRound]:
        return parse_rounds(self.messages, IMAGE_MARK)

    @classmethod
    def make(
        cls, raw: RawSample, rounds: Sequence[FrameRound], images: Sequence[str], system_prompt: str
    ) -> "ImageSample":
        """FieldError as `parse`."""
        return cls.parse(
            {
                "messages": messages_of(rounds, system_prompt, IMAGE_MARK),
                "images": tuple(images),
                "video_name": raw.video_name,
                "task_type": raw.task_type,
                "source": raw.source,
            }
        )

    @classmethod
    def parse(cls, element: Any) -> "ImageSample":
        """FieldError, naming the first wrong field, for what is no sample of this format."""
        try:
            return cls.model_validate(element)
        except ValidationError as error:
            raise field_error(error) from error

    def to_element(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)
