import numpy as np
import pytest

from models.vlm.positions import round_positions

IMAGE = 7


def test_text_counts_on_all_axes() -> None:
    positions, after = round_positions([1, 2, 3], IMAGE, (2, 3), start=10)
    assert positions.tolist() == [[10, 11, 12]] * 3
    assert after == 13


def test_image_block() -> None:
    positions, after = round_positions([1, *[IMAGE] * 6, 2], IMAGE, (2, 3), start=5)
    assert positions.tolist() == [
        [5, 6, 6, 6, 6, 6, 6, 9],
        [5, 6, 6, 6, 7, 7, 7, 9],
        [5, 6, 7, 8, 6, 7, 8, 9],
    ]
    assert after == 10


def test_positions_of_pieces_are_those_of_the_whole() -> None:
    piece = [1, 2, *[IMAGE] * 4, 3]
    whole, end = round_positions(piece * 3, IMAGE, (2, 2), start=10**9)
    parts, start = [], 10**9
    for _ in range(3):
        positions, start = round_positions(piece, IMAGE, (2, 2), start)
        parts.append(positions)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert start == end


def test_an_image_at_the_end_and_an_empty_run() -> None:
    positions, after = round_positions([IMAGE] * 2, IMAGE, (1, 2), start=0)
    assert positions.tolist() == [[0, 0], [0, 0], [0, 1]] and after == 2
    positions, after = round_positions([], IMAGE, (1, 2), start=4)
    assert positions.shape == (3, 0) and after == 4


def test_half_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="whole frames"):
        round_positions([IMAGE] * 3, IMAGE, (2, 2), 0)
    with pytest.raises(ValueError, match="unbroken"):
        round_positions([IMAGE, 1, IMAGE, IMAGE, IMAGE], IMAGE, (2, 2), 0)
