"""Teacher-forced accuracies: how often a model is right when every earlier reply is given to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from models.training.dataset import Collator, Example
from models.training.loss import IGNORED
from models.training.training_model import TrainingModel
from models.vlm.state import State


@torch.no_grad()
def teacher_forced_accuracy(
    model: TrainingModel, batches: Iterable[Sequence[Example]], collator: Collator
) -> dict[str, float]:
    """Shares of what is right, by name: over all samples, and below `<task>/`.

    `silence`, `standby`, `response`: rounds of that state that get it, read as the engine does, the best of
    the three state tokens. `states`: their unweighted mean. `words`: reply tokens after the state token, end
    token included.
    `texts`: replies of which every token is right. A name is left out where nothing was to be told.
    """
    was_training = model.training
    model.eval()
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()

    def count(task: str, name: str, is_right: bool) -> None:
        for key in (name, f"{task}/{name}"):
            total[key] += 1
            right[key] += is_right

    for examples in batches:
        batch = collator(examples)
        labels = batch["labels"]
        hidden, _ = model.hidden_states(
            batch["input_ids"],
            batch["position_ids"],
            batch["patches"],
            batch["patch_grids"],
        )
        for row, example in enumerate(examples):
            at = (labels[row] != IGNORED).nonzero().flatten()
            targets = labels[row, at].tolist()
            logits = model.vlm.lm_head(hidden[row, at - 1])
            state_choices = logits[:, list(model.state_token_ids)].argmax(-1).tolist()
            word_choices = logits.argmax(-1).tolist()
            text_right: bool | None = None
            for k, target in enumerate(targets):
                if target in model.state_token_ids:
                    state = State(model.state_token_ids.index(target))
                    count(example.task, state.name.lower(), state_choices[k] == state)
                    text_right = True if state is State.RESPONSE else None
                elif text_right is not None:
                    is_right = word_choices[k] == target
                    count(example.task, "words", is_right)
                    text_right = text_right and is_right
                    if k + 1 == len(targets) or targets[k + 1] in model.state_token_ids:
                        count(example.task, "texts", text_right)
    model.train(was_training)
    shares = {key: right[key] / total[key] for key in sorted(total)}
    for scope in (
        "",
        *sorted({key.partition("/")[0] + "/" for key in total if "/" in key}),
    ):
        states = [shares[scope + s.name.lower()] for s in State if scope + s.name.lower() in shares]
        if states:
            shares[f"{scope}states"] = sum(states) / len(states)
    return shares
