"""Whether a session rebuilt from its last window goes on as the one that never stopped would have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.held_out import StreamRun

EARLY_ROUNDS = 8


@dataclass(frozen=True)
class Rebuild:
    """Shares of rounds with the same state, right after the rebuild and later, both sessions on their own
    outputs; and of the replies that both gave, those with the same text.
    """

    num_streams: int
    num_rounds: int
    num_replies: int
    early_agreement: float
    later_agreement: float
    same_text: float
    identical_streams: int
    """Streams in which no state differed."""


def summarise(runs: Sequence[StreamRun]) -> Rebuild:
    early = [agrees for run in runs for agrees in run.rebuilt_agrees[:EARLY_ROUNDS]]
    later = [agrees for run in runs for agrees in run.rebuilt_agrees[EARLY_ROUNDS:]]
    texts = [says for run in runs for says in run.rebuilt_says]
    return Rebuild(
        num_streams=len(runs),
        num_rounds=len(early) + len(later),
        num_replies=len(texts),
        early_agreement=sum(early) / len(early),
        later_agreement=sum(later) / len(later),
        same_text=sum(texts) / len(texts) if texts else float("nan"),
        identical_streams=sum(all(run.rebuilt_agrees) for run in runs),
    )
