"""Scores a checkpoint on simulated scenes: python -m models.evaluation --model DIR --split validation --samples 200"""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from models.data.instructions import TASKS
from models.data.scene import SPLITS
from models.data.simulated import make_sample
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.evaluation.free_run import free_run
from models.vlm.model import LanguageModel, VisionEncoder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m models.evaluation", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--frames", type=int, default=32, help="rounds a sample")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoder, model = VisionEncoder.load(arguments.model), LanguageModel.load(arguments.model)
    max_frame_tokens = encoder.budget.max_pixels // encoder.budget.unit**2
    engine = Engine(
        model,
        EngineConfig(
            max_sessions=1, max_kv_tokens=16_384, max_batch_tokens=4096, max_frame_tokens=max_frame_tokens
        ),
    )
    samples = (make_sample(seed, arguments.split, arguments.frames) for seed in range(arguments.samples))
    results = free_run(engine, encoder, tqdm(samples, total=arguments.samples, unit="sample"))
    print(f"{'task':<10} {'rounds':>7} {'state F1':>9} {'scripted':>9} {'told':>6} {'false':>6}")
    for task in TASKS:
        if task in results:
            one = results[task]
            told = one.telling
            print(
                f"{task:<10} {one.states.total():>7} {one.macro_f1:>9.3f} "
                f"{told.num_gold:>9} {told.num_right:>6} {told.num_false:>6}"
            )


if __name__ == "__main__":
    main()
