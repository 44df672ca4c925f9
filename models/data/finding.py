"""What is wrong with a sample, so that it can be found and mended: file, index, field and reason."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError


@dataclass(frozen=True)
class Finding:
    """`field` is dotted, with positions in lists: `response.2.st_time`. `reason` is one of a few phrases, so that
    findings can be counted; `detail` is what was found there. A `broken` sample cannot be used; of the others
    something was left out or taken otherwise than its author may have meant."""

    file: str
    index: int
    field: str
    reason: str
    detail: str = ""
    broken: bool = False

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.file}: sample {self.index}: {self.field}: {self.reason}{detail}"


class BrokenSample(ValueError):
    """A sample that cannot be used; the finding says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


class FieldError(ValueError):
    """A field of a sample is wrong; whoever knows the file and the index makes a `BrokenSample` of it."""

    def __init__(self, field: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{field}: {reason}" + (f" ({detail})" if detail else ""))
        self.field = field
        self.reason = reason
        self.detail = detail

    def at(self, file: str, index: int) -> BrokenSample:
        return BrokenSample(Finding(file, index, self.field, self.reason, self.detail, broken=True))


def field_error(error: ValidationError) -> FieldError:
    """The first thing that pydantic found."""
    first: Any = error.errors(include_url=False)[0]
    # Members of a union stand in the location too ("int", "str"): only names and positions are of interest.
    location = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    names = [str(part) for part in location if part not in _UNION_MEMBERS]
    shown = repr(first["input"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return FieldError(
            ".".join([*names, cause.field]) if cause.field else ".".join(names), cause.reason, cause.detail
        )
    reason = _REASONS.get(first["type"], first["msg"])
    return FieldError(".".join(names) or "sample", reason, "" if reason == "missing" else shown[:60])


_UNION_MEMBERS = ("int", "float", "str")
# In the words of JSON, which is what the author of the file wrote.
_REASONS = {
    "missing": "missing",
    "tuple_type": "must be a list",
    "string_type": "must be a string",
    "model_type": "must be an object",
}
