"""Teacher-forced accuracies: how often a model is right when every earlier reply is given to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from accelerate.utils import send_to_device

from models.training.collator import Collator
from models.training.dataset import Example
from models.training.loss import IGNORED
from models.training.training_model import TrainingModel
from models.vlm.state import State


@torch.no_grad()
def teacher_forced_accuracy(
    model: TrainingModel, batches: Iterable[Sequence[Example]], collator: Collator
) -> dict[str, float]:
    """Shares of what is right, by name: over all samples, and below `<task>/`.

    `silence`, `standby`, `response`: rounds of that state that get it, read as the engine does without a bias,
    the best of the three state tokens. `states`: their unweighted mean. `words`: reply tokens after the state token,
    end token included. `texts`: replies of which every word is right, after whatever state. A name is left out where
    nothing was to be told.
    """
    was_training = model.training
    model.eval()
    tally = _Tally(model.state_token_ids)
    device = next(model.parameters()).device
    for examples in batches:
        output = model(**send_to_device(collator(examples), device))
        state_choices = output["logits"][:, list(model.state_token_ids)].argmax(-1).tolist()
        word_choices = output["logits"].argmax(-1).tolist()
        targets, begin = output["targets"].tolist(), 0
        for example in examples:
            end = begin + int((example.labels != IGNORED).sum())
            tally.add(example.task, targets[begin:end], state_choices[begin:end], word_choices[begin:end])
            begin = end
    model.train(was_training)
    return tally.shares()


class _Tally:
    def __init__(self, state_token_ids: Sequence[int]) -> None:
        self._states = dict(zip(state_token_ids, State, strict=True))
        self._right: Counter[str] = Counter()
        self._total: Counter[str] = Counter()

    def add(
        self, task: str, targets: Sequence[int], state_choices: Sequence[int], word_choices: Sequence[int]
    ) -> None:
        """The targets of one example, in order, with the best of the states and of all tokens at each."""
        text_right: bool | None = None  # of the reply under way, None in one without text
        for index, target in enumerate(targets):
            state = self._states.get(target)
            if state is not None:
                self._count(task, state.name.lower(), state_choices[index] == state)
                text_right = True if state is State.RESPONSE else None
            elif text_right is not None:
                is_right = word_choices[index] == target
                self._count(task, "words", is_right)
                text_right = text_right and is_right
                if index + 1 == len(targets) or targets[index + 1] in self._states:
                    self._count(task, "texts", text_right)

    def _count(self, task: str, name: str, is_right: bool) -> None:
        for key in (name, f"{task}/{name}"):
            self._total[key] += 1
            self._right[key] += is_right

    def shares(self) -> dict[str, float]:
        shares = {key: self._right[key] / self._total[key] for key in sorted(self._total)}
        scopes = sorted({key.partition("/")[0] + "/" for key in shares if "/" in key})
        for scope in ("", *scopes):
            names = [scope + state.name.lower() for state in State]
            states = [shares[name] for name in names if name in shares]
            if states:
                shares[f"{scope}states"] = sum(states) / len(states)
        return shares
