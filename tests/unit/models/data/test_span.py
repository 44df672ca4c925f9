import pytest

from models.data.span import read_span, shift_spans, span_text, without_spans


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("12s to 15.5s", (12_000, 15_500)),
        ("from 12 to 15 seconds", (12_000, 15_000)),
        ("It lasted from 0.5s until 1000000s, I think.", (500, 1_000_000_000)),
        ("3 s and 4 s", (3000, 4000)),
        ("2 to 3 people", None),
        ("at 12s", None),
        ("", None),
    ],
)
def test_spans_are_found_where_two_times_stand(text: str, span: tuple[int, int] | None) -> None:
    assert read_span(text) == span


def test_a_span_that_was_written_is_read() -> None:
    for start_ms, end_ms in ((0, 1000), (12_300, 15_000), (999_999_900, 1_000_000_000)):
        assert read_span(span_text(start_ms, end_ms)) == (start_ms, end_ms)


def test_spans_move_and_all_else_stays() -> None:
    assert shift_spans("2 cars, 1s to 2.5s; from 3 to 4 seconds", 60_000) == (
        "2 cars, 61s to 62.5s; from 63 to 64 seconds"
    )
    assert without_spans("2 cars, 1s to 2.5s") == "2 cars, s"
