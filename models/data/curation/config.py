"""What a curation run is told: sources with their licences, the teacher, and how strict its filters are."""

import tomllib
import urllib.parse
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

TaskName = Literal["narration", "action", "event", "grounding", "qa"]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    # A wrong value may hold a secret, such as a password in an address.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class SourceConfig(_Part):
    """A folder of videos under one licence. `pattern` is a glob below `root`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    root: Path
    licence: Annotated[str, Field(min_length=1)]
    attribution: str = ""
    pattern: str = "**/*.mp4"

    @field_validator("pattern")
    @classmethod
    def _is_glob_below(cls, pattern: str) -> str:
        path = Path(pattern)
        if path.is_absolute() or not path.parts or any("**" in part and part != "**" for part in path.parts):
            raise ValueError(
                'must be a glob below root, such as "**/*.mp4", in which ** stands for folders alone'
            )
        return pattern


class TeacherConfig(_Part):
    """An OpenAI-compatible endpoint that serves a vision-language model.

    key_variable: name of the environment variable that holds the key; "" sends none. deadline_s: of one exchange.
    max_attempts: exchanges for one reply, with growing pauses between them. max_readings: replies asked for where one
    cannot be read. budget_tokens: prompt and completion tokens that the whole data set may cost, earlier runs included.
    """

    base_url: Annotated[str, Field(pattern=r"^https?://[^/]+")]
    model: Annotated[str, Field(min_length=1)]
    key_variable: str = ""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    deadline_s: Annotated[float, Field(gt=0)] = 120.0
    max_attempts: Annotated[int, Field(ge=1)] = 6
    max_readings: Annotated[int, Field(ge=1)] = 2
    max_reply_tokens: Annotated[int, Field(ge=16)] = 1024
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.3
    budget_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, base_url: str) -> str:
        if "@" in urllib.parse.urlsplit(base_url).netloc:
            raise ValueError(
                "must hold no user and no password; key_variable names the environment variable that holds the key"
            )
        return base_url


class ClipConfig(_Part):
    """How videos are cut into clips, and what the teacher sees of them.

    cut_difference: mean difference of two grey thumbnails half a second apart (0..255) that counts as a change of
    shot. fps, max_side: of the clip that is written. teacher_fps, teacher_max_side: of the frames the teacher gets.
    """

    min_s: Annotated[float, Field(gt=0)] = 8.0
    max_s: Annotated[float, Field(gt=0)] = 60.0
    cut_difference: Annotated[float, Field(gt=0)] = 40.0
    fps: Annotated[int, Field(ge=1, le=60)] = 8
    max_side: Annotated[int, Field(ge=56)] = 640
    teacher_fps: Annotated[float, Field(gt=0, le=8)] = 1.0
    teacher_max_side: Annotated[int, Field(ge=56)] = 448

    @model_validator(mode="after")
    def _fits(self) -> "ClipConfig":
        if self.min_s > self.max_s / 2:
            raise ValueError("min_s: must be at most half of max_s, else some lengths cannot be cut")
        return self


class FilterConfig(_Part):
    """How often and how well the teacher must find again what it said.

    votes: independent looks; min_agreeing of them must agree. Two spans agree if their overlap over their union is at
    least `min_iou`, or both ends are within `max_time_error_s`. min_kept_share: of what was claimed for a clip, so
    that what was struck out does not become a wrong silence.
    """

    votes: Annotated[int, Field(ge=1, le=3)] = 3
    min_agreeing: Annotated[int, Field(ge=1)] = 2
    min_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_time_error_s: Annotated[float, Field(ge=0)] = 1.5
    min_kept_share: Share = 0.5

    @model_validator(mode="after")
    def _fits(self) -> "FilterConfig":
        if self.min_agreeing > self.votes:
            raise ValueError("min_agreeing: must not be above votes")
        return self


class SplitConfig(_Part):
    """Shares of the clips that go to validation and test, by whole groups of near-duplicate videos. Two videos are
    near-duplicates if `min_shared` of one's pictures are in the other, wherever, within `max_bits` of 128."""

    validation: Share = 0.05
    test: Share = 0.05
    max_bits: Annotated[int, Field(ge=0, le=7)] = 7
    min_shared: Annotated[float, Field(gt=0, le=1)] = 0.8

    @model_validator(mode="after")
    def _leaves_training(self) -> "SplitConfig":
        if self.validation + self.test >= 1:
            raise ValueError("validation: with test it takes everything; leave some for training")
        return self


class CurationConfig(_Part):
    """`output` holds everything that a run makes, its cache included. `negatives`: grounding questions a clip about
    what happens in another clip and not in this one."""

    output: Path
    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    teacher: TeacherConfig
    tasks: Annotated[tuple[TaskName, ...], Field(min_length=1)] = (
        "narration",
        "action",
        "event",
        "grounding",
        "qa",
    )
    seed: int = 0
    negatives: Annotated[int, Field(ge=0, le=10)] = 1
    clips: ClipConfig = ClipConfig()
    filters: FilterConfig = FilterConfig()
    split: SplitConfig = SplitConfig()

    @model_validator(mode="after")
    def _names_differ(self) -> "CurationConfig":
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("sources: two have one name")
        return self

    @classmethod
    def load(cls, path: Path) -> "CurationConfig":
        """From TOML; relative paths in it are relative to its folder. ValueError, naming the field and the fix."""
        try:
            data = tomllib.loads(path.read_text("utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from error
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            raise ValueError(f"{path}: {_first_fault(error)}") from error
        folder = path.resolve().parent
        sources = [one.model_copy(update={"root": folder / one.root}) for one in config.sources]
        return config.model_copy(update={"output": folder / config.output, "sources": tuple(sources)})


def _first_fault(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = "is not a setting; `streamo data curate --example` lists them"
    return f"{field}: {reason}" if field else reason
