"""One event as one line for people."""

from rich.text import Text

from services.shared.enum_name import enum_name
from streamo.v1.event_pb2 import Event, EventKind, Reason
from streamo.v1.frame_pb2 import SourceState
from streamo.v1.task_pb2 import Task

_STYLES = {
    "OPEN": "yellow",
    "CLOSE": "bold green",
    "ANSWER": "bold green",
    "RETRACT": "dim yellow",
    "STARTED": "dim",
    "ENDED": "dim",
    "GAP": "red",
    "SOURCE": "magenta",
}


def event_line(event: Event, latency_ms: float | None = None) -> Text:
    """Media time, stream, task, phase, text and latency from the frame's capture, in columns unless a name is long."""
    kind = enum_name(EventKind, event.kind).removeprefix("EVENT_KIND_")
    task = enum_name(Task, event.task).removeprefix("TASK_").lower() if event.task else ""
    line = Text()
    line.append(f"{_media_time(event):>9}  ", style="cyan")
    line.append(f"{event.stream_id:<10} ", style="blue")
    line.append(f"{event.watch_id:<12} {task:<9} ")
    line.append(f"{kind:<7} ", style=_STYLES.get(kind, ""))
    line.append(_what(event, kind))
    if latency_ms is not None:
        line.append(f"  {latency_ms:.0f} ms", style="dim")
    return line


def media_time_text(media_time_ms: int) -> str:
    minutes, milliseconds = divmod(max(0, media_time_ms), 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{milliseconds / 1000:04.1f}"
    return f"{hours}:{minutes:02}:{seconds}" if hours else f"{minutes}:{seconds}"


def _media_time(event: Event) -> str:
    if event.HasField("frame"):
        return media_time_text(event.frame.media_time_ms)
    return media_time_text(event.gap.to_ms) if event.HasField("gap") else ""


def _what(event: Event, kind: str) -> str:
    parts = []
    if event.text:
        parts.append(event.text)
    if kind in ("CLOSE", "RETRACT") and event.HasField("span"):
        parts.append(f"[{media_time_text(event.span.start_ms)} to {media_time_text(event.span.end_ms)}]")
    if kind == "SOURCE":
        parts.append(
            enum_name(SourceState, event.source_state).removeprefix("SOURCE_STATE_").lower().replace("_", " ")
        )
    if event.reason:
        parts.append(f"({enum_name(Reason, event.reason).removeprefix('REASON_').lower().replace('_', ' ')})")
    if kind == "GAP":
        span = f"{media_time_text(event.gap.from_ms)} to {media_time_text(event.gap.to_ms)}"
        parts.append(f"{event.gap.num_frames} frames not decided, {span}")
    if event.detail:
        parts.append(event.detail)
    return " ".join(parts)
