"""What states a scratch recipe teaches, counted on some of its examples: a class-balanced loss wants those of all."""

from __future__ import annotations

import numpy as np

from models.training.corpus import tokenizer_texts
from models.training.dataset import ExampleDataset
from models.training.recipes import ScratchRecipe
from models.training.run import Simulator
from models.training.tokenizer import train_tokenizer
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat


def estimated_state_counts(
    recipe: ScratchRecipe, simulator: Simulator | None = None, num_examples: int = 300
) -> tuple[int, int, int]:
    """Silence, Standby, Response in all that the recipe's first pass learns, from the first `num_examples` examples."""
    streamo = recipe.streamo
    tokenizer = train_tokenizer(tokenizer_texts(), recipe.vocab_size)
    dialogue = Dialogue(tokenizer, streamo.system_prompt, streamo.max_instruction_tokens)
    pixels = PixelFormat(recipe.budget, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # not looked at
    make_sample = (simulator if simulator is not None else Simulator()).make_sample
    num_all = recipe.max_steps * recipe.batch_size
    num_examples = min(num_examples, num_all)
    examples = ExampleDataset(make_sample, "train", num_examples, recipe.clips, dialogue, pixels)
    counts = np.zeros(3)
    for index in range(num_examples):
        labels = examples[index].labels
        counts += [(labels == token_id).sum() for token_id in dialogue.state_token_ids]
    silence, standby, response = (int(count) for count in np.round(counts * num_all / num_examples))
    return silence, standby, response
