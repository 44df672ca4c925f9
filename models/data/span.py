"""Spans of media time in texts: "12s to 15.5s", "from 12 to 15 seconds"."""

from __future__ import annotations

import re

from models.vlm.time_tag import format_seconds

# Two numbers of seconds.
_SPAN = re.compile(
    r"\b(\d+(?:\.\d+)?)((?: ?s(?:econds)?)? (?:to|and|until) )(\d+(?:\.\d+)?)(?= ?s(?:econds)?\b)"
)


def span_text(start_ms: int, end_ms: int) -> str:
    """How a span is told: "12s to 15.5s"."""
    return f"{format_seconds(start_ms)}s to {format_seconds(end_ms)}s"


def read_span(text: str) -> tuple[int, int] | None:
    """Start and end, in milliseconds, of the first span that the text names."""
    span = _SPAN.search(text)
    return None if span is None else (_ms(span[1]), _ms(span[3]))


def span_numbers(text: str) -> list[slice]:
    """Where the numbers of all spans stand in the text."""
    return [slice(*span.span(group)) for span in _SPAN.finditer(text) for group in (1, 3)]


def shift_spans(text: str, offset_ms: int) -> str:
    """The text with all its spans that much later."""

    def later(span: re.Match[str]) -> str:
        begin, end = (format_seconds(_ms(number) + offset_ms) for number in (span[1], span[3]))
        return f"{begin}{span[2]}{end}"

    return _SPAN.sub(later, text)


def without_spans(text: str) -> str:
    return _SPAN.sub("", text)


def _ms(number: str) -> int:
    return round(1000 * float(number))
