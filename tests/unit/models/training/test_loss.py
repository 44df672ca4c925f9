import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.training.loss import CLASS_BALANCED_BETA, IGNORED, state_focal_loss

STATES = (5, 6, 7)
VOCAB = 9


def slow_loss(logits, labels, gamma, balance, num_items, class_counts):  # type: ignore[no-untyped-def]
    """The definition, one target at a time."""
    terms, kinds = [], []
    for row_logits, row_labels in zip(logits.tolist(), labels.tolist(), strict=True):
        for position in range(1, len(row_labels)):
            target = row_labels[position]
            if target == IGNORED:
                continue
            scores = row_logits[position - 1]
            log_total = math.log(sum(math.exp(score) for score in scores))
            log_p = scores[target] - log_total
            terms.append((target, -log_p, math.exp(log_p)))
            if target in STATES:
                kinds.append(target)
    counts = (
        {k: kinds.count(k) for k in STATES}
        if class_counts is None
        else dict(zip(STATES, class_counts, strict=True))
    )
    present = [k for k in STATES if counts[k]]
    if balance == "frequency":
        alpha = {k: sum(counts.values()) / (counts[k] * len(present)) for k in present}
    elif balance == "class_balanced":
        raw = {k: (1 - CLASS_BALANCED_BETA) / (1 - CLASS_BALANCED_BETA ** counts[k]) for k in present}
        alpha = {k: raw[k] * len(present) / sum(raw.values()) for k in present}
    else:
        alpha = {}
    total = 0.0
    for target, loss, p in terms:
        weight = alpha.get(target, 1.0) * (1 - p) ** gamma if target in STATES else 1.0
        total += weight * loss
    return total / (len(terms) if num_items is None else num_items)


@given(
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 1.0, 2.0, 3.5]),
    balance=st.sampled_from(["frequency", "class_balanced", None]),
    num_items=st.sampled_from([None, 17]),
    class_counts=st.sampled_from([None, (120, 30, 20)]),
)
def test_equals_the_definition(seed, gamma, balance, num_items, class_counts) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 8, VOCAB, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, VOCAB, (2, 8), generator=generator)
    labels[torch.rand(2, 8, generator=generator) < 0.3] = IGNORED
    labels[0, 1] = 5  # at least one target, and one state
    loss = state_focal_loss(
        logits,
        labels,
        STATES,
        gamma=gamma,
        balance=balance,
        num_items=num_items,
        class_counts=class_counts,
    )
    assert loss.item() == pytest.approx(
        slow_loss(logits, labels, gamma, balance, num_items, class_counts), rel=1e-4
    )


def test_equals_values_worked_out_by_hand() -> None:
    """Uniform logits over four tokens: every target has p = 1/4 and cross entropy ln 4."""
    labels = torch.tensor([[IGNORED, 1, 1, 1, 2, 0, IGNORED]])
    logits = torch.zeros(1, 7, 4, dtype=torch.float64)
    focal = (3 / 4) ** 2 * math.log(4)
    # Three targets of state 1 and one of state 2; state 3 is absent, and the last target is a word.
    states = (1, 2, 3)
    plain = state_focal_loss(logits, labels, states, balance=None)
    assert plain.item() == pytest.approx((4 * focal + math.log(4)) / 5)
    # alpha: 4 / 3 / 2 for each of the three, 4 / 1 / 2 for the one; they add up to the number of states again.
    frequency = state_focal_loss(logits, labels, states)
    assert frequency.item() == pytest.approx(((3 * 2 / 3 + 2) * focal + math.log(4)) / 5)
    # w: 1e-4 / (1 - 0.9999^3) and 1e-4 / (1 - 0.9999), scaled to mean 1.
    three, one = 1e-4 / (1 - 0.9999**3), 1.0
    three, one = 2 * three / (three + one), 2 * one / (three + one)
    balanced = state_focal_loss(logits, labels, states, balance="class_balanced", num_items=10)
    assert balanced.item() == pytest.approx(((3 * three + one) * focal + math.log(4)) / 10)
    # With the counts of a large data set the class-balanced weights are all 1.
    large = state_focal_loss(
        logits, labels, states, balance="class_balanced", class_counts=(10**6, 10**5 * 3, 10**5 * 2)
    )
    assert large.item() == pytest.approx(plain.item())


def one_target(logit: float) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.zeros(1, 2, VOCAB)
    logits[0, 0, 5] = logit
    return logits.requires_grad_(), torch.tensor([[IGNORED, 5]])


def test_the_gradient_goes_through_the_focal_factor_unless_detached() -> None:
    gradients = {}
    for detach in (False, True):
        logits, labels = one_target(1.0)
        state_focal_loss(logits, labels, STATES, detach=detach).backward()
        gradients[detach] = logits.grad[0, 0, 5].item()
    p = math.exp(1) / (math.exp(1) + VOCAB - 1)
    # d/dz of -(1-p)^2 log p with dp/dz = p (1 - p), and of the same with (1-p)^2 held.
    assert gradients[True] == pytest.approx(-((1 - p) ** 3), rel=1e-4)
    assert gradients[False] == pytest.approx(-((1 - p) ** 3) + 2 * (1 - p) ** 2 * p * math.log(p), rel=1e-4)


def test_a_sure_model_gives_no_nan() -> None:
    logits, labels = one_target(200.0)
    loss = state_focal_loss(logits, labels, STATES, gamma=1.5)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.isfinite(logits.grad).all()


def test_no_targets_give_zero_and_unknown_balance_is_refused() -> None:
    logits = torch.zeros(1, 3, VOCAB)
    assert state_focal_loss(logits, torch.full((1, 3), IGNORED), STATES).item() == 0.0
    with pytest.raises(ValueError, match="balance"):
        state_focal_loss(logits, torch.zeros(1, 3, dtype=torch.long), STATES, balance="other")  # type: ignore[arg-type]
