"""What 100, 1,000 and 10,000 cameras take: `make scaling-plan` writes docs/benchmarks/scaling.md.

Sizes of records are measured, the work of a round is counted from the model's shape, how hashing spreads streams over
replicas is simulated; everything else stands in `Assumed`, and is written out with the tables. What one GPU did in a
measurement stands beside what it is counted to do.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tests.bench.random_model import SHAPES, Shape
from tests.bench.record_sizes import RecordSizes, measure

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs/benchmarks/scaling.md"
FLEETS = (100, 1_000, 10_000)
MAX_PARTITIONS = 1000  # services/shared/settings.py
# docs/benchmarks/engine-gpu.md: streams of one frame a second that one GPU held, more not tried, and their windows.
HELD_ON_GPU = 48
HELD_WINDOW_ROUNDS = 120


@dataclass(frozen=True)
class Assumed:
    """Not measured here. Change one and run it again."""

    watches: int = 1  # of each stream
    window_rounds: int = 60
    text_tokens: int = 28  # of a round beside its frame: as with our own tokenizer
    response_share: float = 0.12
    reply_tokens: int = 20
    gpu_tflops: float = 989.0  # H100 SXM, bfloat16, dense: published
    gpu_bandwidth_tbs: float = 3.35  # published
    gpu_memory_gb: float = 80.0  # published
    flops_reached: float = 0.4  # share of the published rate
    busy: float = 0.7  # the rest is for bursts, takeovers, and frames that wait for their turn
    reserved_gb: float = 8.0  # activations, allocator, CUDA
    camera_mbits: float = 4.0  # a 1080p H.264 camera
    decode_cores: float = 0.15  # to decode one at 25 frames a second
    broker_mbs: float = 100.0  # written to one broker's disk, each second
    redis_sets: float = 100_000.0  # a second, one instance
    gpu_hour_usd: float = 3.0
    core_hour_usd: float = 0.04
    disk_gb_month_usd: float = 0.08


@dataclass(frozen=True)
class Measured:
    kept_fps: float  # frames kept a second, of the demo's cameras
    events_s: float  # events a second and watch, of the demo
    core_rounds_s: float  # the embedded model on one core, 99 % of rounds within 300 ms


@dataclass(frozen=True)
class Replica:
    """What one GPU with one encoder and one LLM replica can carry."""

    session_gb: float
    sessions_by_memory: int
    sessions_by_compute: int
    round_ms: float

    @property
    def sessions(self) -> int:
        return min(self.sessions_by_memory, self.sessions_by_compute)


def measured() -> Measured:
    demo = json.loads((ROOT / "docs/benchmarks/demo.json").read_text())
    engine = json.loads((ROOT / "docs/benchmarks/engine.json").read_text())
    told = sum(
        count for kinds in demo["events"].values() for kind, count in kinds.items() if kind != "STARTED"
    )
    held = next(one["held"] for one in engine["loads"] if one["side"] == "engine")
    return Measured(
        kept_fps=demo["frames_kept"] / demo["duration_s"] / 2,
        events_s=told / demo["duration_s"] / len(demo["events"]),
        core_rounds_s=held["num_streams"],
    )


def layer_parameters(shape: Shape) -> int:
    """Of the decoder's layers, which every token passes."""
    text = shape.text
    hidden, head = text["hidden_size"], text["hidden_size"] // text["num_attention_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * head * text["num_key_value_heads"]
    return text["num_hidden_layers"] * (attention + 3 * hidden * text["intermediate_size"])


def tower_parameters(shape: Shape) -> int:
    vision = shape.vision
    hidden = vision["hidden_size"]
    return vision["depth"] * (4 * hidden * hidden + 3 * hidden * vision["intermediate_size"])


def weight_bytes(shape: Shape) -> int:
    """In bfloat16: decoder, both embeddings, vision tower."""
    embeddings = 2 * shape.text["vocab_size"] * shape.text["hidden_size"]
    return 2 * (layer_parameters(shape) + embeddings + tower_parameters(shape))


def kv_bytes(shape: Shape) -> int:
    """Keys and values of one token in bfloat16."""
    text = shape.text
    head = text["hidden_size"] // text["num_attention_heads"]
    return 2 * 2 * int(text["num_hidden_layers"] * text["num_key_value_heads"] * head)


def replica(shape: Shape, at: Assumed, seen: Measured) -> Replica:
    text = shape.text
    rows, columns = shape.grid
    frame_tokens = rows * columns
    round_tokens = frame_tokens + at.text_tokens
    context = at.window_rounds * round_tokens
    session_bytes = context * kv_bytes(shape)
    weights = weight_bytes(shape)
    room = (at.gpu_memory_gb - at.reserved_gb) * 1e9 - weights

    def token_flops() -> float:
        attention = 4 * text["num_hidden_layers"] * text["hidden_size"] * context
        return 2 * layer_parameters(shape) + attention

    # A patch is 14 pixels a side, four of them a visual token. Attention in windows hardly counts.
    encode = 2 * tower_parameters(shape) * 4 * frame_tokens
    tokens = round_tokens + at.response_share * at.reply_tokens
    flops = tokens * token_flops() + encode / at.watches
    rate = at.flops_reached * at.gpu_tflops * 1e12
    # Keys and values are read once an extend and once for each token of a reply; so are the weights, by all sessions
    # of a batch together, of which eight are taken to reply at a time.
    reads = (1 + at.response_share * at.reply_tokens) * session_bytes
    reads += at.response_share * at.reply_tokens * weights / 8
    round_s = flops / rate + reads / (at.gpu_bandwidth_tbs * 1e12)
    return Replica(
        session_gb=session_bytes / 1e9,
        sessions_by_memory=int(room / session_bytes),
        sessions_by_compute=int(at.busy / round_s / seen.kept_fps),
        round_ms=1000 * round_s,
    )


def fullest(num_streams: int, num_partitions: int, num_replicas: int, seed: int) -> int:
    """Streams of the fullest replica, where ids are spread over partitions by a hash and these dealt out evenly."""
    partitions = np.random.default_rng(seed).integers(num_partitions, size=num_streams)
    return int(np.bincount(partitions % num_replicas, minlength=num_replicas).max())


def fullest_by_weight(num_streams: int, num_partitions: int, num_replicas: int, seed: int) -> int:
    """As `fullest`, were partitions dealt out by their streams, the fullest first, each to the emptiest replica."""
    partitions = np.random.default_rng(seed).integers(num_partitions, size=num_streams)
    loads = [0] * num_replicas
    for streams in sorted(np.bincount(partitions, minlength=num_partitions).tolist(), reverse=True):
        heapq.heapreplace(loads, loads[0] + streams)
    return max(loads)


def replicas_for(
    num_streams: int,
    streams_each: int,
    num_partitions: int,
    fullest: Callable[[int, int, int, int], int] = fullest,
) -> int | None:
    """The fewest replicas of which none has more streams than it can carry, for each of ten draws of ids."""
    for count in range(math.ceil(num_streams / streams_each), num_partitions + 1):
        if all(fullest(num_streams, num_partitions, count, seed) <= streams_each for seed in range(10)):
            return count
    return None


def partitions_for(num_streams: int, streams_each: int) -> int:
    """Four or more for each replica, so that there is something to deal out evenly, as far as there may be as many."""
    wanted = 4 * math.ceil(num_streams / streams_each)
    return next((count for count in (8, 16, 32, 64, 128, 256, 512) if count >= wanted), MAX_PARTITIONS)


def row(
    num_streams: int, can: Replica, shape: Shape, sizes: RecordSizes, at: Assumed, seen: Measured
) -> dict[str, str]:
    streams_each = max(1, can.sessions // at.watches)
    partitions = partitions_for(num_streams, streams_each)
    replicas = replicas_for(num_streams, streams_each, partitions)
    if replicas is None:
        raise ValueError(
            f"{num_streams} streams, {streams_each} a replica: {partitions} partitions are too few"
        )
    by_weight = replicas_for(num_streams, streams_each, partitions, fullest_by_weight)
    frames_s = num_streams * seen.kept_fps
    # float32, as the encoder hands them on
    embedding_bytes = 4 * shape.grid[0] * shape.grid[1] * shape.text["hidden_size"]
    events_s = num_streams * at.watches * seen.events_s
    # A commit at each event, else each second; it writes every stream of the partition that had a frame meanwhile.
    commits_s = partitions * max(1.0, events_s / partitions)
    states_s = min(frames_s, num_streams * max(1.0, events_s / partitions))
    jpeg_mbs = frames_s * sizes.frame_jpeg_photo / 1e6
    written_mbs = 3 * (jpeg_mbs + (events_s * sizes.event + states_s * sizes.state) / 1e6)
    brokers = max(3, math.ceil(written_mbs / at.broker_mbs))
    disk_tb = 3 * jpeg_mbs * 6 * 3600 / 1e6
    ingest_cores = num_streams * at.decode_cores
    month_h = 730
    gpus_usd = replicas * at.gpu_hour_usd * month_h
    cores_usd = (ingest_cores + 8 * brokers + 8 * replicas) * at.core_hour_usd * month_h
    disk_usd = disk_tb * 1000 * at.disk_gb_month_usd
    total_usd = gpus_usd + cores_usd + disk_usd
    return {
        "partitions": f"{partitions:,}",
        "GPUs, each a worker with one replica of encoder and LLM": f"{replicas:,}",
        "… were partitions dealt out by their streams": f"{by_weight:,}",
        "… without any skew": f"{math.ceil(num_streams / streams_each):,}",
        "ingest workers of 64 streams": f"{math.ceil(num_streams / 64):,}",
        "ingest, cores": f"{ingest_cores:,.0f}",
        "from the cameras": f"{num_streams * at.camera_mbits / 1000:,.1f} Gbit/s",
        "frames kept a second": f"{frames_s:,.0f}",
        "into Kafka, JPEG": f"{jpeg_mbs:,.1f} MB/s",
        "into Kafka, raw": f"{frames_s * sizes.frame_raw / 1e6:,.0f} MB/s",
        "written to disks, three copies, JPEG": f"{written_mbs:,.0f} MB/s",
        "brokers": f"{brokers}",
        "frames of six hours, three copies": f"{disk_tb:,.2f} TB",
        "encoder to LLM, a worker": f"{frames_s / replicas * embedding_bytes / 1e6:,.0f} MB/s",
        "events a second": f"{events_s:,.0f}",
        "transactions a second": f"{commits_s:,.0f}",
        "state records and Redis SETs a second": f"{states_s:,.0f}",
        "share of one Redis": f"{states_s / at.redis_sets:.1%}",
        "checkpoints in Redis": f"{num_streams * sizes.checkpoint / 1e6:,.1f} MB",
        "read by each gateway": f"{(events_s * sizes.event + states_s * sizes.state) / 1e6:,.1f} MB/s",
        "cost a month": f"{total_usd:,.0f} USD",
        "… a camera": f"{total_usd / num_streams:,.0f} USD",
        "… of it GPUs": f"{gpus_usd / total_usd:.0%}",
    }


def against_measured(measured_at: Replica, planned: Replica, at: Assumed, seen: Measured) -> str:
    """`measured_at`: what is planned for the windows of the measurement; `planned`: for those of the fleets."""
    rounds_s, fleet_rounds_s = (one.sessions_by_compute * seen.kept_fps for one in (measured_at, planned))
    return (
        f"**What was measured.** The 7B's shape with random weights and windows of {HELD_WINDOW_ROUNDS} rounds, "
        f"encoder and engine in one process, held {HELD_ON_GPU} streams of a frame a second on an H200, in one trial "
        f"of 5 seconds ([engine-gpu.md](engine-gpu.md)): {HELD_ON_GPU} rounds a second, with nothing to spare by the "
        f"clock; more were not tried. Here it is {measured_at.sessions_by_compute} cameras of {seen.kept_fps:.2f} "
        f"frames a second, {rounds_s:.0f} rounds a second on the slower H100, with {1 - at.busy:.0%} of the time to "
        f"spare: {rounds_s / HELD_ON_GPU:.1f} times as many. With windows of {at.window_rounds} rounds, which were not "
        f"measured, the fleets below count on {fleet_rounds_s:.0f} rounds a second, {fleet_rounds_s / HELD_ON_GPU:.1f} "
        f"times as many. What limits is attention, at 185 TFLOP/s, a fifth of the published rate instead of the "
        f"{at.flops_reached:.0%} that are assumed here."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(one) + " |" for one in rows])


def write() -> str:
    at, seen = Assumed(), measured()
    shapes = {"Qwen2.5-VL-7B": SHAPES["qwen2.5-7b"], "Qwen2.5-VL-3B": SHAPES["qwen2.5-3b"]}
    shape = shapes["Qwen2.5-VL-7B"]
    sizes = measure(shape.frame_hw, at.window_rounds, at.response_share, at.reply_tokens)
    cans = {
        (name, rounds): replica(one, Assumed(window_rounds=rounds), seen)
        for name, one in shapes.items()
        for rounds in (30, 60, 120)
    }
    can = cans["Qwen2.5-VL-7B", at.window_rounds]
    plans = {count: row(count, can, shape, sizes, at, seen) for count in FLEETS}
    skew = [
        [
            f"{partitions:,}",
            *(
                f"{fullest_share(count, partitions, replicas):.2f}"
                for count, replicas in ((1_000, 20), (10_000, 100), (10_000, 200))
            ),
        ]
        for partitions in (64, 128, 256, 512, 1000)
    ]
    parts = [
        "# The plan for more cameras, computed",
        "    make scaling-plan",
        "Written by that command: do not edit. What it means is in [scaling.md](../scaling.md).",
        "## Measured",
        table(
            ["what", "value", "where"],
            [
                ["frames kept a second and camera", f"{seen.kept_fps:.2f}", "demo.json"],
                ["events a second and watch", f"{seen.events_s:.2f}", "demo.json"],
                ["rounds a second, embedded model, one core", f"{seen.core_rounds_s:,.0f}", "engine.json"],
                *(
                    [
                        f"record: {field.name.replace('_', ', ')}",
                        f"{getattr(sizes, field.name):,} bytes",
                        "here",
                    ]
                    for field in fields(sizes)
                ),
            ],
        ),
        f"Records are those of a frame of {shape.frame_hw[1]}x{shape.frame_hw[0]} pixels and of one watch with a full "
        f"window of {at.window_rounds} rounds, serialised by the services' code, with Kafka's own bytes. \"Drawn\" "
        'is a simulated scene, "photo" a photograph; the plan takes that.',
        "## Assumed or published",
        table(["what", "value"], [[field.name, f"{getattr(at, field.name):,}"] for field in fields(at)]),
        "## One GPU, derived",
        "From the model's shape and the GPU's published figures: sessions whose rounds it can compute at the assumed "
        "share of its rate, and sessions that fit its memory with as many tokens as usual rounds have. The engine "
        "reserves for the longest rounds, about twice as much, unless `MAX_WINDOW_TOKENS` says less "
        "([settings.md](../settings.md#room-for-sessions)).",
        table(
            [
                "model",
                "window, rounds",
                "one session, GB",
                "fit the memory",
                "can be computed",
                "so",
                "a round, ms of GPU",
            ],
            [
                [
                    name,
                    str(rounds),
                    f"{one.session_gb:.2f}",
                    str(one.sessions_by_memory),
                    str(one.sessions_by_compute),
                    str(one.sessions),
                    f"{one.round_ms:.1f}",
                ]
                for (name, rounds), one in cans.items()
            ],
        ),
        against_measured(cans["Qwen2.5-VL-7B", HELD_WINDOW_ROUNDS], can, at, seen),
        f"## Fleets, Qwen2.5-VL-7B, windows of {at.window_rounds} rounds",
        table(
            ["cameras", *(f"{count:,}" for count in FLEETS)],
            [[name, *(plans[count][name] for count in FLEETS)] for name in plans[FLEETS[0]]],
        ),
        "## Skew, simulated",
        "Streams of the fullest replica over the mean, the worst of ten draws of stream ids: ids are spread by a hash, "
        "partitions dealt out evenly.",
        table(["partitions", "1,000 streams on 20", "10,000 on 100", "10,000 on 200"], skew),
    ]
    return "\n\n".join(parts) + "\n"


def fullest_share(num_streams: int, num_partitions: int, num_replicas: int) -> float:
    worst = max(fullest(num_streams, num_partitions, num_replicas, seed) for seed in range(10))
    return worst * num_replicas / num_streams


if __name__ == "__main__":
    OUT.write_text(write())
    print(f"written: {OUT.relative_to(ROOT)}")
