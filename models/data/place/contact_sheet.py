"""A clip for people to look at: `python -m models.data.place.contact_sheet out.png --seed N --task event`."""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from models.data.place.clip import draw_clip
from models.data.place.layout import PLACE_HEIGHT, PLACE_WIDTH
from models.data.place.query import TASKS
from models.data.place.simulated import clip_sample
from models.data.place.split import SPLITS, split_rng
from models.data.sample import SEPARATOR, Sample

_STATE_PAINTS = {"SILENCE": (90, 90, 90), "STANDBY": (190, 120, 0), "RESPONSE": (0, 130, 40)}
_MARGIN, _HEAD, _FOOT = 6, 22, 58
_CHAR_WIDTH, _LINE_HEIGHT = 5, 11


def contact_sheet(sample: Sample, columns: int = 6, zoom: int = 1) -> Image.Image:
    """The frames of a sample with their time tags, states and texts; what is past when it is asked is marked."""
    height, width = sample.frames.shape[1:3]
    cell_w, cell_h = width * zoom + _MARGIN, height * zoom + _FOOT
    rows = -(-len(sample.frames) // columns)
    sheet = Image.new("RGB", (cell_w * columns, _HEAD + cell_h * rows), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    pen.text((4, 4), f"{sample.task}: {sample.instruction}", fill=(0, 0, 0))
    for index, (frame, turn) in enumerate(zip(sample.frames, sample.rounds, strict=True)):
        x, y = index % columns * cell_w, _HEAD + index // columns * cell_h
        picture = Image.fromarray(frame).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        sheet.paste(picture, (x, y))
        name = "past" if index < sample.first_live else turn.state.name
        tag = f"{turn.start_ms / 1000:g}s-{turn.end_ms / 1000:g}s {name}"
        pen.text((x + 2, y + height * zoom), tag, fill=_STATE_PAINTS.get(name, (150, 150, 150)))
        lines = [
            line for part in turn.text.split(SEPARATOR) for line in textwrap.wrap(part, cell_w // _CHAR_WIDTH)
        ]
        for number, line in enumerate(lines, 1):
            pen.text((x + 2, y + height * zoom + number * _LINE_HEIGHT), line, fill=(0, 0, 0))
    return sheet


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.data.place.contact_sheet", description=__doc__)
    parser.add_argument("output", type=Path, help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--task", choices=TASKS, default=None)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--zoom", type=int, default=1)
    parser.add_argument("--clean", action="store_true", help="without the camera's noise and compression")
    options = parser.parse_args(argv)
    clip = draw_clip(options.seed, options.split, options.frames, options.task)
    rng = split_rng(options.split, options.seed, "camera")
    sample = clip_sample(clip, (PLACE_HEIGHT, PLACE_WIDTH), rng, is_clean=options.clean)
    contact_sheet(sample, zoom=options.zoom).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
