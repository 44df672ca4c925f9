"""`python -m models.training --recipe tiny --output runs/tiny`: train, and export what a run made."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.training.checkpoints import export_checkpoint, newest_checkpoint
from models.training.recipes import RECIPES


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="tiny")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder of the run: checkpoints and logs",
    )
    parser.add_argument("--max-steps", type=int, help="optimizer steps, instead of the recipe's")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint of the run",
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--workers", type=int, default=1, help="processes that make samples")
    parser.add_argument("--warmed", type=Path, help="begin with the `warmed` folder of another run")
    parser.add_argument(
        "--export-to",
        type=Path,
        help="do not train: write the newest checkpoint of the run to this model folder",
    )
    options = parser.parse_args(argv)
    if options.export_to is not None:
        checkpoint = newest_checkpoint(options.output)
        export_checkpoint(checkpoint, options.export_to)
        print(f"{checkpoint} -> {options.export_to}")
        return

    from models.training.run import Machine, ScratchRun

    recipe = RECIPES[options.recipe]()
    if options.max_steps is not None:
        recipe = replace(recipe, max_steps=options.max_steps)
    machine = Machine(options.threads, options.workers)
    ScratchRun(recipe, options.output, machine).train(resume=options.resume, warmed=options.warmed)


if __name__ == "__main__":
    main()
