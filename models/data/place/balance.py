"""What the clips of a split are made of: `python -m models.data.place.balance --split train --clips 500`."""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from models.data.place.clip import Clip, draw_clip
from models.data.place.query import TASKS
from models.data.place.split import SPLITS
from models.data.sample import SEPARATOR
from models.vlm.state import State


@dataclass
class Balance:
    """Counts over the clips of one task. Only live rounds count.

    backward: grounding that is asked for what is over already. joint: Responses of several parts.
    """

    clips: int = 0
    negatives: int = 0
    late: int = 0
    backward: int = 0
    joint: int = 0
    told: int = 0
    rounds: int = 0
    minutes: float = 0.0
    states: Counter[State] = field(default_factory=Counter)
    held_out: Counter[str] = field(default_factory=Counter)
    longest_quiet_s: list[float] = field(default_factory=list)

    def add(self, clip: Clip) -> None:
        live = clip.rounds[clip.first_live :]
        self.clips += 1
        self.negatives += not clip.golds
        self.late += clip.first_live > 0
        asked_ms = clip.times_ms[clip.first_live]
        self.backward += any(
            gold.frame_ms == asked_ms and gold.end_ms <= clip.times_ms[clip.first_live - 1]
            for gold in clip.golds
            if clip.task == "grounding" and clip.first_live
        )
        self.joint += sum(SEPARATOR in turn.text for turn in live)
        self.told += len(clip.golds)
        self.rounds += len(live)
        self.minutes += (live[-1].end_ms - live[0].start_ms) / 60_000
        self.states.update(turn.state for turn in live)
        self.held_out.update(clip.held_out)
        self.longest_quiet_s.append(max(_quiet_s(clip)))


def _quiet_s(clip: Clip) -> Iterator[float]:
    run_ms = 0
    for turn in clip.rounds[clip.first_live :]:
        run_ms = run_ms + turn.end_ms - turn.start_ms if turn.state == State.SILENCE else 0
        yield run_ms / 1000


def balances(clips: Iterable[Clip]) -> dict[str, Balance]:
    """Per task, and "all"."""
    counted = {name: Balance() for name in (*TASKS, "all")}
    for clip in clips:
        counted[clip.task].add(clip)
        counted["all"].add(clip)
    return counted


def table(counted: dict[str, Balance]) -> str:
    """As a markdown table."""
    lines = [
        "| task | clips | Silence : Standby : Response (%) | told a minute | joint Responses | tell nothing"
        " | asked late | backward | median longest quiet (s) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in counted.items():
        if not one.clips:
            continue
        states = " : ".join(f"{100 * one.states[state] / one.rounds:.1f}" for state in State)
        quiet = sorted(one.longest_quiet_s)[one.clips // 2]
        shares = (one.negatives, one.late, one.backward)
        lines.append(
            f"| {name} | {one.clips} | {states} | {one.told / one.minutes:.2f} | {one.joint} | "
            + " | ".join(f"{100 * share / one.clips:.0f} %" for share in shares)
            + f" | {quiet:.1f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.data.place.balance", description=__doc__)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--frames", type=int, default=32)
    options = parser.parse_args(argv)
    counted = balances(draw_clip(seed, options.split, options.frames) for seed in range(options.clips))
    print(table(counted))
    held_out = counted["all"].held_out
    print(
        "held out: "
        + ", ".join(f"{name} {held_out[name]}" for name in ("layout", "combination", "instruction"))
    )


if __name__ == "__main__":
    main()
