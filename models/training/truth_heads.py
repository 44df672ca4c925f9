"""What a small model is asked besides its replies, so that it learns to see and to compare. Dropped after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import nn

from models.data.sample import TruthSizes
from models.training.loss import IGNORED
from models.training.other_dialogue import OtherDialogueBatch
from models.training.past_times import NUM_CLASSES, PastTimesBatch
from models.vlm.state import State

TRUTH_HEADS_FILE = "truth_heads.safetensors"
HEADS_OF_WHAT_IS_SEEN = (
    "seen",
    "read",
    "before",
    "changed",
    "seen_coordinates",
    "read_coordinates",
    "coordinates_before",
)


@dataclass(frozen=True)
class TruthShape:
    """What the truth heads are told about each frame. `tokens_per_frame`: visual tokens, the same for every frame."""

    sizes: TruthSizes
    tokens_per_frame: int


class TruthBatch(TypedDict):
    """What is asked besides the replies of a packed sequence, which has N frames in D dialogues: the examples', and
    behind them the other ones. Places are those in the sequence.

    decisions: int64 [N], where the state of a frame is decided. is_first: bool [N], the frame has none before it. seen,
    acts, asked: int64 [N, columns]. coordinates: float32 [N, columns], NaN for who is not there. answers: int64 [N],
    NO_ANSWER where nothing is asked. ends: int64 [D], where instructions end. asked_at_once: int64 [D, columns].
    others, past_times: None where a plan has none. looks: int64 [2, n] each, from where, to where.
    """

    decisions: torch.Tensor
    is_first: torch.Tensor
    seen: torch.Tensor
    coordinates: torch.Tensor
    acts: torch.Tensor
    asked: torch.Tensor
    answers: torch.Tensor
    ends: torch.Tensor
    asked_at_once: torch.Tensor
    others: OtherDialogueBatch | None
    past_times: PastTimesBatch | None
    looks: dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Heights:
    """What layers give of all tokens, [T, hidden] each, on the way up."""

    lower_down: torch.Tensor
    half_way: torch.Tensor
    higher_up: torch.Tensor


class TruthHead(nn.Module):
    """Classes of truth columns, read off features by one linear map."""

    def __init__(self, width: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy of features [N, width] against truth [N, columns], of which some may be IGNORED."""
        return self._losses(features, truth).sum() / (truth != IGNORED).sum().clamp(min=1)

    def balanced(self, features: torch.Tensor, truth: torch.Tensor, is_rare: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy where `is_rare`, bool [N, columns], and that where it is not, added up."""
        losses = self._losses(features, truth)
        parts = (losses[is_rare], losses[~is_rare])
        return torch.stack([part.sum() / max(1, len(part)) for part in parts]).sum()

    @torch.no_grad()
    def accuracy(self, features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Share of right classes of each column."""
        columns = self.linear(features).split(self.sizes, dim=-1)
        right = [(logits.argmax(-1) == truth[:, k]).float().mean() for k, logits in enumerate(columns)]
        return torch.stack(right)

    def _losses(self, features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        columns = self.linear(features).split(self.sizes, dim=-1)
        losses = [
            F.cross_entropy(logits, truth[:, k], reduction="none", ignore_index=IGNORED)
            for k, logits in enumerate(columns)
        ]
        return torch.stack(losses, dim=1)


class CoordinateHead(nn.Module):
    """Coordinates, read off features by one linear map. `shares`: of frames that have each."""

    shares: torch.Tensor

    def __init__(self, width: int, shares: Sequence[float]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, len(shares))
        self.register_buffer("shares", torch.tensor(shares), persistent=False)

    def forward(self, features: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        """Mean square of the errors of features [N, width] against coordinates [N, columns]. What is NaN counts as no
        error, and what is rare as much as what is not."""
        squares = self._errors(features, coordinates).square() / self.shares
        return squares.sum() / max(1, squares.numel())

    @torch.no_grad()
    def off_by(self, features: torch.Tensor, coordinates: torch.Tensor) -> float:
        """Root of the mean square of the errors, but for what is NaN."""
        squares = self._errors(features, coordinates).square()
        return float((squares.sum() / (~coordinates.isnan()).sum()).sqrt())

    def _errors(self, features: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        """[N, columns]: 0 for what is NaN."""
        is_nowhere = coordinates.isnan()
        return (self.linear(features) - coordinates.nan_to_num()).masked_fill(is_nowhere, 0.0)


class TruthHeads(nn.Module):
    """Heads on a model's way from pictures to decisions.

    `seen`: what is in a frame, from the mean of its visual tokens (`means_of_frames`), so that each says where it
    stands and one look at all of them is enough. `read`: the same, from where the state is decided, half-way up the
    layers. `before` and `changed`, from there too: what was in the frame before, and what has come to be since (class
    0: nothing has). Without the last two a model learns to go on with what it decided last, and not to
    compare: of two frames' features no single one says that they differ. Little changes from frame to frame, so in both
    what has changed weighs as much as all else.
    `seen_coordinates`, `read_coordinates` and `coordinates_before`: where those are, and were, that move. Two classes
    of cells do not say which way somebody goes, while the difference of two numbers does.
    `acts`, from there too: what goes on, asked for or not, weighed likewise. `asked`, from there: what the instruction
    asks for. Only where the two are the same is there anything to tell, and what is asked for is rare: from states
    alone a model learns to go by what happens, or to say nothing. Of its columns hardly one is not 0, so these weigh as
    much as the rest. All of it is known half-way up, so that there are layers left: for a state to compare the two in,
    for a reply's tokens to fetch what its decision knows, and to word it.
    `answers`, higher up: what the frame answers to a question. Told is an answer only where it changes, and then it can
    be had from what has happened; from that alone a model does not learn to look, and guesses when it is asked first.
    `understood`: the same as `asked`, lower down where the instruction ends, so that there is one token to look at.
    `times`: letters of times that stand in the history, higher up too, see `PastTimes`: replies that name a time
    are too rare to learn from them alone how one is looked up.
    `turn`: the state, from where it is read off, weighed likewise where it is another than in the round before. Of a
    hundred rounds of `event` one is the first in which something is under way; in the loss of the states it is hardly
    to be seen, and a loss that is balanced itself speaks too often. It reads the decisions under other instructions
    too, all but Silence weighed as much as that (`OtherDecisions`).
    """

    def __init__(self, shape: TruthShape, hidden_size: int) -> None:
        super().__init__()
        self.shape = shape
        seen, acts, asked, num_answers, shares = shape.sizes
        self.seen = TruthHead(hidden_size, seen)
        self.read = TruthHead(hidden_size, seen)
        self.before = TruthHead(hidden_size, seen)
        self.changed = TruthHead(hidden_size, [1 + size for size in seen])
        self.seen_coordinates = CoordinateHead(hidden_size, shares)
        self.read_coordinates = CoordinateHead(hidden_size, shares)
        self.coordinates_before = CoordinateHead(hidden_size, shares)
        self.acts = TruthHead(hidden_size, acts)
        self.understood = TruthHead(hidden_size, asked)
        self.asked = TruthHead(hidden_size, asked)
        self.answers = TruthHead(hidden_size, [num_answers])
        self.times = TruthHead(hidden_size, [NUM_CLASSES])
        self.turn = TruthHead(hidden_size, [len(State)])

    def forward(
        self,
        visual: torch.Tensor,
        heights: Heights,
        truth: TruthBatch,
        *,
        asks_what_is_seen: bool,
    ) -> dict[str, torch.Tensor]:
        """Losses by head: visual [N * tokens, hidden]. `asks_what_is_seen`: also HEADS_OF_WHAT_IS_SEEN."""
        read = normed(heights.half_way[truth["decisions"]])
        decided = normed(heights.higher_up[truth["decisions"]])
        understood = normed(heights.lower_down[truth["ends"]])
        losses = {
            "acts": _unless_zero(self.acts, read, truth["acts"]),
            "asked": _unless_zero(self.asked, read, truth["asked"]),
            "answers": self.answers(decided, truth["answers"][:, None]),
            "understood": _unless_zero(self.understood, understood, truth["asked_at_once"]),
        }
        if asks_what_is_seen:
            losses |= self._what_is_seen(visual, read, truth)
        others, past_times = truth["others"], truth["past_times"]
        if others is not None:
            alone = normed(heights.half_way[others["decisions"]])
            losses["alone"] = _unless_zero(self.asked, alone, others["asked"])
        if past_times is not None:
            letters = past_times["letters"][:, None]
            losses["times"] = self.times(normed(heights.higher_up[past_times["places"]]), letters)
        return losses

    def at_turns(self, last: torch.Tensor, states: torch.Tensor, is_turn: torch.Tensor) -> torch.Tensor:
        """Loss of the states, int64 [n], read off last [n, hidden]; is_turn, bool [n]: those that weigh as much as all
        others."""
        return self.turn.balanced(normed(last), states[:, None], is_turn[:, None])

    def of_others(
        self, decided: torch.Tensor, last: torch.Tensor, others: OtherDialogueBatch
    ) -> dict[str, torch.Tensor]:
        """Losses by head of decisions under other instructions: decided, last [m, hidden], higher up and from where the
        state is read off."""
        states = others["states"]
        return {
            "others": self.at_turns(last, states, states != State.SILENCE),
            "other_answers": self.answers(normed(decided), others["answers"][:, None]),
        }

    def _what_is_seen(
        self,
        visual: torch.Tensor,
        read: torch.Tensor,
        truth: TruthBatch,
    ) -> dict[str, torch.Tensor]:
        """read [N, hidden]: half-way up where each frame's state is decided."""
        seen, coordinates = truth["seen"], truth["coordinates"]
        if len(visual) != len(seen) * self.shape.tokens_per_frame:
            raise ValueError(
                f"the truth heads need {self.shape.tokens_per_frame} tokens a frame; use one frame size"
            )
        means = means_of_frames(visual, self.shape.tokens_per_frame)
        losses = {
            "seen": self.seen(means, seen),
            "read": self.read(read, seen),
            "seen_coordinates": self.seen_coordinates(means, coordinates),
            "read_coordinates": self.read_coordinates(read, coordinates),
        }
        later = (~truth["is_first"]).nonzero().flatten()
        if len(later):
            features, now, before = read[later], seen[later], seen[later - 1]
            has_changed = now != before
            losses["coordinates_before"] = self.coordinates_before(features, coordinates[later - 1])
            losses["before"] = self.before.balanced(features, before, has_changed)
            losses["changed"] = self.changed.balanced(features, (now + 1) * has_changed, has_changed)
        return losses


def half_way_layer(num_layers: int) -> int:
    """The layer behind which what a frame shows has been read."""
    return max(1, num_layers // 2 - 1)


def means_of_frames(visual: torch.Tensor, tokens_per_frame: int) -> torch.Tensor:
    """[N, hidden] of visual tokens [N * tokens, hidden]: what a head of attention has that looks at all alike."""
    return normed(visual.reshape(-1, tokens_per_frame, visual.shape[-1]).mean(1))


def _unless_zero(head: TruthHead, features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """What is not 0, of each column, weighs as much as what is."""
    return head.balanced(features, truth, truth != 0)


def normed(hidden: torch.Tensor) -> torch.Tensor:
    """As heads read it, [..., hidden]: no layer need keep its scale."""
    return F.rms_norm(hidden, hidden.shape[-1:])
