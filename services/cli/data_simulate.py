"""`streamo data simulate`: the watched place as a data set."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.shared.errors import InvalidInput


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    DEMO = "demo"


def simulate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or an empty one.")],
    split: Annotated[
        Split, typer.Option(help="The splits share no place; test has what training never shows.")
    ],
    num_samples: Annotated[int, typer.Option(min=1, help="Samples; the five tasks take turns.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the first sample; each further one has the next.")] = 0,
    frames: Annotated[
        int, typer.Option(min=1, help="Kept frames a sample, at half a frame to two a second.")
    ] = 40,
    fps: Annotated[int, typer.Option(min=1, max=60, help="Frames a second of the videos.")] = 10,
    videos: Annotated[bool, typer.Option(help="Write the videos, or only what is asked and told.")] = True,
) -> None:
    """Make a data set from the simulated place: videos, and samples in the raw format with exact truth.

    DIR gets raw.json, videos/, truth.jsonl (what happens in each video) and manifest.json (settings, versions, licence
    and the hash of every file). The same options give the same files. docs/simulator.md shows the place.

    Examples:

        streamo data simulate --out place --split train --num-samples 50

        streamo data convert place/raw.json stream.json --to stream --video-root place
    """
    from models.data.place.data_set import DataSetConfig, write_data_set

    progress = Progress(
        TextColumn("Simulating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    try:
        config = DataSetConfig(split.value, num_samples, seed, frames, fps, with_videos=videos)
        with progress:
            bar = progress.add_task("", total=num_samples)
            manifest = write_data_set(config, out, lambda: progress.advance(bar))
    except (ValueError, OSError) as error:
        raise InvalidInput(str(error)) from error
    num_bytes = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{out}: {num_samples} samples, {len(manifest['files'])} files, {num_bytes / 1e6:.1f} MB.")
