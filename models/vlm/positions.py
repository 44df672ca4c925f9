"""The 3-axis positions (time, height, width) that the rotary embedding of both families reads, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def round_positions(
    token_ids: Sequence[int],
    image_token_id: int,
    grid: tuple[int, int],
    start: int,
    kept: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """Positions of a run of tokens; each block of image tokens in it is one frame of the given merged grid.

    Text moves all three axes by one. An image block at p has time p, height p + row, width p + col, and what
    follows goes on at p + max(rows, cols). Where `kept`, bool [rows * cols], is given, each block has tokens at
    those places of the grid only, and every position is what it would be with all of them. Returns int64 [3, n]
    and the position after the run. O(n), so a round costs the same however long its dialogue is. ValueError if
    a block of image tokens is not a whole number of frames of that grid.
    """
    ids = np.asarray(token_ids, dtype=np.int64)
    rows, cols = grid
    places = np.arange(rows * cols) if kept is None else np.flatnonzero(kept)
    block = len(places)
    is_image = ids == image_token_id
    num_image = int(is_image.sum())
    if num_image and (block < 1 or num_image % block):
        raise ValueError(
            f"{num_image} image tokens are not whole frames of {block} places in a {rows}x{cols} grid"
        )
    positions = np.empty((3, len(ids)), dtype=np.int64)
    if not num_image:
        positions[:] = start + np.arange(len(ids))
        return positions, start + len(ids)

    # A frame of n tokens moves the position by max(rows, cols), all of it booked on its first token.
    image_indices = np.flatnonzero(is_image)
    firsts = image_indices[::block]
    if not np.array_equal(image_indices, (firsts[:, None] + np.arange(block)).ravel()):
        raise ValueError(f"image tokens do not stand in unbroken blocks of a {rows}x{cols} grid")
    advance = np.where(is_image, 0, 1)
    advance[firsts] = max(rows, cols)
    after = start + np.cumsum(advance)
    positions[:] = after - advance
    block_starts = positions[0, firsts]
    row_of, col_of = np.divmod(places, cols)
    frames = block_starts[:, None]
    positions[0, image_indices] = np.broadcast_to(frames, (len(firsts), block)).ravel()
    positions[1, image_indices] = (frames + row_of).ravel()
    positions[2, image_indices] = (frames + col_of).ravel()
    return positions, int(after[-1])
