"""`streamo model ...`: checkpoints before and after training."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.cli.train_command import quiet_loading
from services.shared.errors import InvalidInput

app = typer.Typer(
    no_args_is_help=True, help="Make a base checkpoint ready for training, and a run's result for serving."
)


@app.command()
def prepare(
    base: Annotated[
        Path, typer.Option(metavar="DIR", help="A Qwen2.5-VL or Qwen3-VL checkpoint, downloaded.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    window_rounds: Annotated[int, typer.Option(min=1, help="Rounds that a session keeps.")] = 120,
    max_reply_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 128,
    max_instruction_tokens: Annotated[int, typer.Option(min=1, help="Longest instruction.")] = 256,
    max_frame_tokens: Annotated[int, typer.Option(min=4, help="Visual tokens a frame.")] = 128,
    system_prompt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of the built-in prompt.")
    ] = None,
) -> None:
    """Add the three state tokens to a base checkpoint, and write down what it will be trained and served with.

    The new tokens' embeddings start as the mean of those of words that say what they mean. The folder can be trained
    and, after that, served; window, prompt and frame size are read from it by both.

    Examples:

        streamo model prepare --base Qwen2.5-VL-3B-Instruct --out prepared
    """
    from models.data.stream_format import DEFAULT_SYSTEM_PROMPT
    from models.training.prepare import PreparedFrames, prepare_checkpoint
    from models.vlm.streamo_config import StreamoConfig

    try:
        prompt = DEFAULT_SYSTEM_PROMPT if system_prompt is None else system_prompt.read_text("utf-8").strip()
        streamo = StreamoConfig(window_rounds, max_reply_tokens, prompt, max_instruction_tokens)
        ids = prepare_checkpoint(base, out, streamo, PreparedFrames(max_tokens=max_frame_tokens))
    except (ValueError, OSError) as error:
        raise InvalidInput(str(error)) from error
    print(f"{out}: {', '.join(f'{token} is {token_id}' for token, token_id in ids.items())}")


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a `streamo train` run.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Gets the model; other files in it stay.")],
    dtype: Annotated[Dtype, typer.Option(help="Of the weights.")] = Dtype.FLOAT32,
) -> None:
    """Write the newest checkpoint of a run as a model to be served or shipped.

    Examples:

        streamo model export runs/cameras --out models/cameras
    """
    import torch

    from models.training.checkpoints import export_checkpoint, newest_checkpoint

    quiet_loading()
    try:
        checkpoint = newest_checkpoint(run)
        export_checkpoint(checkpoint, out, getattr(torch, dtype.value))
    except (ValueError, OSError) as error:
        raise InvalidInput(str(error)) from error
    print(f"{checkpoint} -> {out}")
