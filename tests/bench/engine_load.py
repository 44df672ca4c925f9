"""How many streams one machine serves: frames arrive at 1 fps, a share of the rounds respond.

    python -m tests.bench.engine_load --seconds 60
    python -m tests.bench.engine_load --shape qwen2.5-7b --device cuda --dtype bfloat16 --encoder --seconds 300

Finds the most streams of which the 99th percentile from a frame's arrival to its state stays below the limit
with nothing shed, windows full all the time. `--side` puts a baseline in the engine's place.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from models.engine.attention import attention_backend
from models.vlm.model import LanguageModel, VisionEncoder
from services.shared.settings import ModelSettings
from tests.bench.arrivals import Trial, most_streams, run_trial
from tests.bench.hugging_face import Chat, EvictMany, HuggingFaceModel, ResendWindow
from tests.bench.random_model import SHAPES, random_encoder, random_language_model
from tests.bench.scripted import Script
from tests.bench.servers import LIMIT_MS, BaselineServer, EngineServer, Frames
from tests.bench.workload import Workload

# A reply takes a step a token, so a step must be much shorter than a second is long divided by a reply's tokens.
BATCH_TOKENS = 320
# The first calls of a shape compile and allocate.
WARM_UP_S = 3.0
SIDES = ("engine", "resend", "evict_half", "evict_quarter")


@dataclass(frozen=True)
class Load:
    """`trials` in the order they were run; `held` is the long one that held, None if not even one stream did."""

    side: str
    window_rounds: int
    response_share: float
    reply_tokens: int
    limit_ms: float
    trials: tuple[Trial, ...]
    held: Trial | None


def measure(
    server: EngineServer | BaselineServer,
    side: str,
    window_rounds: int,
    script: Script,
    trial_s: float,
    duration_s: float,
    first_streams: int,
    max_streams: int,
    tell: Callable[[Trial], object] = lambda trial: None,
) -> Load:
    """Short trials find about where the limit lies, long ones of `duration_s` find a number that holds; a trial
    before them is not counted.
    """
    rng = np.random.default_rng(0)
    trials: list[Trial] = []

    def run(num_streams: int, seconds: float) -> Trial:
        server.open(num_streams)
        trials.append(run_trial(server, num_streams, seconds, rng, time.monotonic, time.sleep))
        tell(trials[-1])
        return trials[-1]

    server.open(first_streams)
    run_trial(server, first_streams, WARM_UP_S, rng, time.monotonic, time.sleep)
    found = most_streams(lambda number: run(number, trial_s), LIMIT_MS, first_streams, max_streams)
    num_streams = max((trial.num_streams for trial in found if trial.holds(LIMIT_MS)), default=0)
    held = None
    while num_streams and held is None:
        trial = run(num_streams, duration_s)
        held = trial if trial.holds(LIMIT_MS) else None
        num_streams -= max(1, num_streams // 10)
    return Load(
        side, window_rounds, script.response_share, script.reply_tokens, LIMIT_MS, tuple(trials), held
    )


def make_server(
    workload: Workload,
    side: str,
    script: Script,
    window_rounds: int,
    max_streams: int,
    max_batch_tokens: int,
    encoder: VisionEncoder | None = None,
    attention: str = "auto",
) -> EngineServer | BaselineServer:
    """A server without streams. ValueError for an unknown side."""
    frames = Frames(workload, encoder)
    if side == "engine":
        backend = attention_backend(attention, workload.model.device, workload.model)
        return EngineServer(workload, frames, script, window_rounds, max_streams, max_batch_tokens, backend)
    if side not in SIDES:
        raise ValueError(f"side {side!r} is unknown; use one of {SIDES}")
    hf = HuggingFaceModel.of(workload.model)
    past = [workload.quiet_round(index) for index in range(window_rounds)]

    def make_chat(stream: int) -> Chat:
        if side == "resend":
            resend = ResendWindow(hf, workload.instruction, window_rounds, keeps_cache=True)
            resend.fill(past)
            return resend
        num_dropped = window_rounds // (2 if side == "evict_half" else 4)
        chat = EvictMany(hf, workload.instruction, window_rounds, num_dropped)
        chat.fill(past)
        # So that streams do not all drop their rounds at once.
        for index in range(1 + stream % num_dropped):
            one = workload.quiet_round(window_rounds + index)
            chat.decide(one)
            chat.end_round(one.forced_reply or ())
        return chat

    return BaselineServer(workload, frames, script, window_rounds, make_chat)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.engine_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=ModelSettings().path, help="checkpoint directory")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights of this shape instead")
    parser.add_argument("--side", choices=SIDES, default="engine")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--attention", choices=("auto", "sdpa", "varlen", "paged"), default="auto")
    parser.add_argument("--encoder", action="store_true", help="encode each frame on the same device")
    parser.add_argument("--window", type=int, help="rounds; by default the checkpoint's or the shape's own")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the trial that counts")
    parser.add_argument("--trial-seconds", type=float, default=8.0, help="of the ones that search")
    parser.add_argument("--first-streams", type=int, default=8, help="where the search begins")
    parser.add_argument("--max-streams", type=int, default=256, help="the KV cache is made for so many")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS, help="most tokens in a step")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    dtype, device = getattr(torch, arguments.dtype), torch.device(arguments.device)
    encoder = None
    if arguments.shape:
        shape = SHAPES[arguments.shape]
        model = random_language_model(shape, arguments.model, dtype, device)
        rows, cols = shape.grid
        frame = torch.randn(rows * cols, model.visual_size, dtype=dtype, device=device) * 0.05
        workload = Workload(model, "Report deliveries.", (frame,), shape.grid)
        if arguments.encoder:
            encoder = random_encoder(shape, dtype, device)
    else:
        model = LanguageModel.load(arguments.model, dtype, device)
        encoder = VisionEncoder.load(arguments.model, dtype, device)
        workload = Workload.of(model, encoder)
        if not arguments.encoder:
            encoder = None
    window_rounds = arguments.window or workload.model.config.window_rounds
    script = Script()
    server = make_server(
        workload,
        arguments.side,
        script,
        window_rounds,
        arguments.max_streams,
        arguments.batch_tokens,
        encoder,
        arguments.attention,
    )

    def tell(trial: Trial) -> None:
        verdict = "holds" if trial.holds(LIMIT_MS) else "too many"
        print(
            f"{trial.num_streams:>5} streams  p50 {trial.p50_ms:7.1f}  p99 {trial.p99_ms:7.1f} ms  "
            f"shed {trial.num_shed:>4}  busy {trial.busy_share:4.0%}  {verdict}",
            flush=True,
        )

    load = measure(
        server,
        arguments.side,
        window_rounds,
        script,
        arguments.trial_seconds,
        arguments.seconds,
        min(arguments.first_streams, arguments.max_streams),
        arguments.max_streams,
        tell,
    )
    held = load.held.num_streams if load.held else 0
    print(f"{arguments.side}: {held} streams of {window_rounds} rounds for {arguments.seconds:g} s")
    if arguments.output:
        arguments.output.write_text(json.dumps(asdict(load), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
