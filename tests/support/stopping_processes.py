"""Two processes, the first of which is asked to stop: `python -m tests.support.stopping_processes RANK FILE` is one.

Prints after which step each of them saves and ends.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from models.training.trainer import _RunCallback


def main(rank: int, file: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    arguments = TrainingArguments(output_dir=str(file.parent), use_cpu=True, report_to=[])
    callback, control = _RunCallback(), TrainerControl()
    for step in range(1, 10):
        # The signal comes to the first process between the third step and the fourth, to the other never.
        callback.stops = rank == 0 and step > 3
        callback.on_step_end(arguments, TrainerState(), control)
        if control.should_training_stop:
            print(f"saves at {step}" if control.should_save else "ends without a checkpoint", flush=True)
            break
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
