import pytest

from models.vlm.time_tag import format_seconds, rounded_ms


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "0"),
        (49, "0"),
        (50, "0.1"),
        (12_000, "12"),
        (12_340, "12.3"),
        (12_350, "12.4"),
        (12_960, "13"),
        (999_999_960, "1000000"),
        (10**9, "1000000"),
    ],
)
def test_seconds_have_at_most_one_decimal(time_ms: int, text: str) -> None:
    assert format_seconds(time_ms) == text
    assert rounded_ms(time_ms) == round(float(text) * 1000)
