"""How the attention of a step is cut into pieces of work for a GPU. Free of torch.

The new tokens of a row are cut into tiles. Where there are too few tiles to fill the device, as with decode
rows over long windows, the keys of a tile are split between several items, whose results are merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# For fewer keys in an item a merge costs more than it gains.
MIN_SPLIT_KEYS = 512


@dataclass(frozen=True, eq=False)
class WorkPlan:
    """The work of rows that are cut into tiles of one size.

    items int64 [n, 7]: the tile's first token (in the step) and number of tokens; the last key that its first
    token sees, each further token seeing one more; first key and end of the item's stretch of keys; where the
    row's blocks begin in the block tables; the part that takes the result, -1 if the tile has no other item.

    merges int64 [m, 4], one for each tile with several items: its first token and number of tokens; its first
    part and the end of its parts.
    """

    items: np.ndarray
    merges: np.ndarray
    num_parts: int

    @classmethod
    def of(
        cls,
        num_queries: np.ndarray,
        num_keys: np.ndarray,
        first_tokens: np.ndarray,
        table_starts: np.ndarray,
        tile_tokens: int,
        keys_per_item: int,
    ) -> WorkPlan:
        """For each row: its new tokens, all its keys, where it begins in the step and in the block tables."""
        row, tile_in_row = _repeat(-(-num_queries // tile_tokens))
        skipped = tile_in_row * tile_tokens
        first_token = first_tokens[row] + skipped
        num_tokens = np.minimum(num_queries[row] - skipped, tile_tokens)
        last_key = num_keys[row] - num_queries[row] + skipped
        end_key = last_key + num_tokens
        num_items = -(-end_key // keys_per_item)
        num_parts = np.where(num_items > 1, num_items, 0)
        end_part = np.cumsum(num_parts)
        # Even stretches, since the longest decides when a tile is done.
        stretch = -(-end_key // num_items)

        tile, item_in_tile = _repeat(num_items)
        first_key = item_in_tile * stretch[tile]
        items = [
            first_token[tile],
            num_tokens[tile],
            last_key[tile],
            first_key,
            np.minimum(first_key + stretch[tile], end_key[tile]),
            table_starts[row][tile],
            np.where(num_parts[tile] > 0, (end_part - num_parts)[tile] + item_in_tile, -1),
        ]
        merges = np.stack([first_token, num_tokens, end_part - num_parts, end_part], axis=1)
        return cls(np.stack(items, axis=1), merges[num_parts > 0], int(num_parts.sum()))


def keys_per_item(num_queries: np.ndarray, num_keys: np.ndarray, tile_tokens: int, num_items: int) -> int:
    """How many keys an item may have for there to be about `num_items`, where there is work for so many."""
    num_tiles = -(-num_queries // tile_tokens)
    return max(MIN_SPLIT_KEYS, -(-int((num_tiles * num_keys).sum()) // num_items))


def _repeat(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each i, as often as counts[i] says: i itself, and which repetition it is."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - (np.cumsum(counts) - counts)[index]
