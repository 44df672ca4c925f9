"""One training run of a recipe, from an empty folder or from where it stopped."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration, TrainingArguments

from models.data import simulated
from models.training.checkpoints import newest_checkpoint
from models.training.corpus import tokenizer_texts
from models.training.dataset import Collator, ExampleDataset, SampleMaker
from models.training.recipes import ScratchRecipe
from models.training.scratch_model import write_random_checkpoint
from models.training.tokenizer import train_tokenizer
from models.training.trainer import StreamoTrainer
from models.training.training_model import TrainingModel
from models.vlm.dialogue import Dialogue
from models.vlm.pixels import PixelFormat


def train(
    recipe: ScratchRecipe,
    run_dir: Path,
    resume: bool = False,
    num_threads: int = 1,
    num_workers: int = 0,
    make_sample: SampleMaker = simulated.make_sample,
) -> None:
    """Train to the recipe's last step, or to SIGTERM; blocks. Equal recipes give equal batches, resumed or
    not.

    SIGTERM saves a checkpoint and ends the run cleanly, if this is the main thread.
    ValueError if `resume` finds no checkpoint, or if a new run would overwrite an old one.
    """
    torch.set_num_threads(num_threads)
    checkpoint = newest_checkpoint(run_dir) if resume else None
    init_dir = run_dir / "init"
    if not resume:
        if init_dir.exists():
            raise ValueError(f"{run_dir} holds a run already; give --resume, or another --output")
        tokenizer = train_tokenizer(tokenizer_texts(), recipe.vocab_size)
        write_random_checkpoint(
            init_dir,
            recipe.architecture,
            tokenizer,
            recipe.streamo,
            recipe.budget,
            recipe.seed,
        )
    pixels = PixelFormat.load(init_dir)
    dialogue = Dialogue.load(init_dir, recipe.streamo.system_prompt, recipe.streamo.max_instruction_tokens)
    vlm = Qwen2_5_VLForConditionalGeneration.from_pretrained(init_dir, dtype=torch.float32)
    num_batches = recipe.max_steps
    training_set = ExampleDataset(
        make_sample,
        "train",
        num_batches * recipe.batch_size,
        recipe.batch_size,
        recipe.clips,
        dialogue,
        pixels,
    )
    validation_set = ExampleDataset(
        make_sample,
        "validation",
        recipe.num_validation_samples,
        recipe.batch_size,
        recipe.clips,
        dialogue,
        pixels,
    )
    first = make_sample(0, "train", 1)
    torch.manual_seed(recipe.seed)
    model = TrainingModel(
        vlm,
        dialogue.state_token_ids,
        recipe.loss,
        truth_sizes=first.truth_sizes,
        tokens_per_frame=recipe.budget.num_tokens(*first.frames.shape[1:3]),
    )
    num_parameters = sum(parameter.numel() for parameter in vlm.parameters())
    print(
        f"{num_parameters / 1e6:.2f} M parameters, {dialogue.vocab_size} token ids",
        flush=True,
    )
    trainer = StreamoTrainer(
        model=model,
        args=_arguments(recipe, run_dir, num_workers),
        train_dataset=training_set,
        validation=validation_set,
        collator=Collator(pixels, vlm.config.text_config.pad_token_id),
        model_dir=init_dir,
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    trainer.evaluate()


def _arguments(recipe: ScratchRecipe, run_dir: Path, num_workers: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(run_dir),
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=recipe.adam_beta2,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch",
        use_cpu=True,
        train_sampling_strategy="sequential",  # already random; a resumed run goes on
        remove_unused_columns=False,
        dataloader_num_workers=num_workers,
        dataloader_prefetch_factor=2 if num_workers else None,
        dataloader_pin_memory=False,
        eval_strategy="steps",
        eval_steps=recipe.eval_every_steps,
        save_strategy="steps",
        save_steps=recipe.save_every_steps,
        save_total_limit=3,
        logging_steps=10,
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=recipe.seed,
    )
