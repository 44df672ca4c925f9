"""Stretches that attend in bundles give what they give one by one."""

from collections.abc import Sequence

import pytest
import torch

from models.training.bundled_packing import BundledPacking
from models.training.packing import Look, Packing, Stretch

HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 8
# Windows of three rounds of four tokens that slide over pinned tokens, examples seen whole, a lone token.
STRETCHES = [
    (Stretch(0, 17), *(Stretch(17 + 4 * n, 21 + 4 * n, 5, 9 + 4 * n, 4 * (n + 1)) for n in range(5))),
    (Stretch(0, 23),),
    (Stretch(0, 14), Stretch(14, 16, 3, 7, 4), Stretch(16, 21, 3, 10, 7)),
    (Stretch(0, 1),),
    (Stretch(0, 22),),
]
LENGTH = sum(of_example[-1].end for of_example in STRETCHES)


def heads(seed: int, num_asking: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, num_heads, length, HEAD_DIM, generator=generator, dtype=torch.float64).requires_grad_()
        for num_heads, length in ((HEADS, num_asking), (KEY_HEADS, LENGTH), (KEY_HEADS, LENGTH))
    ]


def results(
    packing: Packing | BundledPacking, layer: int, inputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple[torch.Tensor, ...]]:
    """What is attended to, what is looked at, and the gradients of a sum of both."""
    attended, shares = packing.attend(layer, *inputs, 0.4)
    weights = torch.linspace(-1, 1, attended.numel(), dtype=attended.dtype).view_as(attended)
    total = (attended * weights).sum() + sum(share.sum() for share in shares.values())
    return attended, shares, torch.autograd.grad(total, inputs)


def looks() -> dict[str, Look]:
    """Every third token looks at itself; every second one of the first example at a pinned token."""
    own = torch.arange(0, LENGTH, 3)
    first = torch.arange(5, 37, 2)
    return {
        "own": Look(0, 1, own, own),
        "pinned": Look(0, HEADS - 1, first, first % 5),
        "elsewhere": Look(1, 0, own, own),
        "nothing": Look(0, 0, own[:0], own[:0]),
    }


def both(kind: type[Packing] | type[BundledPacking]) -> Packing | BundledPacking:
    inv_freq = 1.0 / 10 ** torch.arange(HEAD_DIM // 2)
    return kind.of(STRETCHES, torch.device("cpu"), inv_freq, looks())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_bundles_give_what_single_stretches_give(layer: int) -> None:
    expected, expected_shares, expected_gradients = results(both(Packing), layer, heads(0, LENGTH))
    ours, shares, gradients = results(both(BundledPacking), layer, heads(0, LENGTH))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert set(shares) == set(expected_shares)
    for name, share in expected_shares.items():
        torch.testing.assert_close(shares[name], share, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "asking",
    [
        [0],
        [3, 16, 17, 36, 37, 59, 60, 80, 81, 82, LENGTH - 1],
        range(LENGTH),
        [3, 3, 3, 16, 37, 37, 59, 81, 81],  # of one token several things are asked
    ],
)
def test_where_only_some_tokens_ask(asking: Sequence[int]) -> None:
    index = torch.tensor(list(asking))
    expected, _, expected_gradients = results(both(Packing).only(index), 0, heads(1, len(index)))
    ours, shares, gradients = results(both(BundledPacking).only(index), 0, heads(1, len(index)))
    assert shares == {}
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-6)
