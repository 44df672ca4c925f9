"""How media time is written, in a round's time tag and in the text of a reply: seconds with at most one decimal."""


def format_seconds(time_ms: int) -> str:
    """Seconds, with no decimal when whole: 12000 -> "12", 12340 -> "12.3"."""
    whole, tenth = divmod((time_ms + 50) // 100, 10)
    return f"{whole}.{tenth}" if tenth else str(whole)


def rounded_ms(time_ms: int) -> int:
    """The time that `format_seconds` writes: to a tenth of a second."""
    return (time_ms + 50) // 100 * 100
