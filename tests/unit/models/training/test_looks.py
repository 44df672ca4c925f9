"""The shares of attention that a look is told are those that attention goes by."""

import pytest
import torch

from models.training.packing import Look, Packing, Stretch, packed_attention

HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 8
# An example whose window slides over three pinned tokens, and one seen whole.
STRETCHES = [
    (Stretch(0, 9), Stretch(9, 12, num_pinned=3, first_key=6, shift=3), Stretch(12, 15, 3, 9, 6)),
    (Stretch(0, 4),),
]
LENGTH = 15 + 4
PAIRS = [(4, 2), (8, 8), (9, 1), (10, 7), (14, 0), (14, 9), (14, 14), (16, 15), (18, 16)]


class Layer(torch.nn.Module):
    layer_idx = 1


@pytest.mark.parametrize("head", range(HEADS))
def test_shares_are_what_comes_of_a_key_where_it_is_asked_for(head: int) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, HEADS, LENGTH, HEAD_DIM), torch.randn(1, KEY_HEADS, LENGTH, HEAD_DIM)
    # Each token's value is its number, so that what is attended to can be read off.
    value = torch.eye(LENGTH).expand(1, KEY_HEADS, LENGTH, LENGTH)
    queries, keys = torch.tensor(PAIRS).T
    looks = {
        "here": Look(1, head, queries, keys),
        "nowhere": Look(1, head, queries[:0], keys[:0]),
        "elsewhere": Look(0, head, queries, keys),
    }
    inv_freq = 1.0 / 10 ** torch.arange(HEAD_DIM // 2)
    packing = Packing.of(STRETCHES, query.device, inv_freq, looks)
    attended, shares = packed_attention(Layer(), query, key, value, None, packing=packing, scaling=0.5)
    assert shares is not None
    assert set(shares) == {"here", "nowhere"}
    torch.testing.assert_close(shares["here"].exp(), attended[0, queries, head, keys])
    assert len(shares["nowhere"]) == 0


def test_a_layer_where_only_some_tokens_ask_is_not_looked_at() -> None:
    query, key = torch.randn(1, HEADS, 2, HEAD_DIM), torch.randn(1, KEY_HEADS, LENGTH, HEAD_DIM)
    queries, keys = torch.tensor(PAIRS).T
    packing = Packing.of(STRETCHES, query.device, torch.ones(4), {"here": Look(1, 0, queries, keys)})
    _, shares = packed_attention(
        Layer(), query, key, key, None, packing=packing.only(torch.tensor([3, 17])), scaling=0.5
    )
    assert shares == {}
