"""Grafana's board, made from the declared metrics. `make board` writes charts/streamo/files/board.json."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from services.shared.telemetry import Declared, Metrics

_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH, _HEIGHT = 8, 8


def name_of(metric: Declared) -> str:
    """As the collector's exporter writes it, without suffixes for units and types."""
    return metric[0].replace(".", "_")


def rate(metric: Declared, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({name_of(metric)}[$__rate_interval]))"


def quantile(metric: Declared, q: float, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({grouped}) (rate({name_of(metric)}_bucket[$__rate_interval])))"


def total(metric: Declared, by: str = "") -> str:
    return f"sum by ({by}) ({name_of(metric)})" if by else f"sum({name_of(metric)})"


def worst(query: str) -> str:
    """The streams of which it says most; right after a takeover two replicas tell of one stream."""
    return f"topk(10, max by (stream_id) ({query}) > 0)"


def quantiles(metric: Declared) -> dict[str, str]:
    return {f"p{100 * q:g}": quantile(metric, q) for q in (0.5, 0.95, 0.99)}


def panel(title: str, unit: str, queries: dict[str, str], description: str = "") -> dict:
    targets = [
        {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
        for number, (legend, query) in enumerate(queries.items())
    ]
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
    }


def rows() -> dict[str, list[dict]]:
    M = Metrics
    return {
        "What users get": [
            panel("From a frame to its event", "ms", quantiles(M.EVENT_MS), M.EVENT_MS[2]),
            panel("Events by kind", "ops", {"{{event_kind}}": rate(M.EVENTS_COMMITTED, "event_kind")}),
            panel(
                "Subscribers",
                "short",
                {"open": total(M.SUBSCRIBERS), "cut a second": rate(M.SUBSCRIBERS_CUT)},
            ),
        ],
        "Cameras": [
            panel(
                "Frames a second",
                "ops",
                {"decoded": rate(M.FRAMES_SEEN), "kept": rate(M.FRAMES_KEPT)},
                "Kept far below what is decoded is normal: the sampler leaves out what shows nothing new.",
            ),
            panel(
                "Streams by condition",
                "short",
                {"{{condition}}": total(M.STREAMS, "condition")},
                "Each stream is in one: failing (its source cannot be read), silent (no frame, and nobody said why), "
                "shedding (frames passed over within the last minute), behind (half-way to that), ok, ended.",
            ),
            panel(
                "Seconds without a frame",
                "s",
                {"{{stream_id}}": worst(f"{name_of(M.STREAM_SILENT_S)} > 5")},
                "The ten longest. Which streams are named: telemetry.max_named_streams.",
            ),
            panel("Failing sources", "short", {"{{stream_id}}": worst(name_of(M.STREAM_FAILING))}),
            panel(
                "Behind",
                "s",
                {"{{stream_id}}": worst(name_of(M.STREAM_BEHIND_S))},
                "Age of the oldest frame not yet decided.",
            ),
            panel(
                "Frames skipped in five minutes",
                "short",
                {"{{stream_id}}": worst(f"delta({name_of(M.STREAM_FRAMES_SKIPPED)}[5m])")},
                "Shed, lost or unreadable: each is named in a GAP, with its reason.",
            ),
            panel(
                "Streams run, sources opened again",
                "short",
                {"streams": total(M.STREAMS_RUNNING), "{{reason}} a second": rate(M.RECONNECTS, "reason")},
            ),
            panel(
                "Lost frames a second",
                "ops",
                {
                    "dropped: {{reason}}": rate(M.FRAMES_DROPPED, "reason"),
                    "skipped: {{reason}}": rate(M.FRAMES_SKIPPED, "reason"),
                    "overtaken": rate(M.FRAMES_OVERTAKEN),
                },
                "Each skipped frame is named in a GAP; overtaken: of an ingest worker that had lost the stream.",
            ),
        ],
        "Where the time goes": [
            panel(
                "p95 by stage",
                "ms",
                {"{{stage}}": quantile(M.STAGE_MS, 0.95, "stage")},
                "From capture to delivery; the stages are those of a frame's trace.",
            ),
            panel("Capture to acknowledged record", "ms", quantiles(M.CAPTURE_MS)),
            panel("Frame to decision", "ms", quantiles(M.DECISION_MS)),
            panel("Commit", "ms", quantiles(M.COMMIT_MS)),
            panel("Engine step", "ms", quantiles(M.STEP_MS)),
            panel("Encoder batch", "ms", quantiles(M.ENCODE_MS)),
        ],
        "Commits and takeovers": [
            panel(
                "Transactions a second",
                "ops",
                {
                    "committed": f"sum (rate({name_of(M.COMMIT_MS)}_count[$__rate_interval]))",
                    "aborted": rate(M.COMMITS_ABORTED),
                },
            ),
            panel(
                "Takeovers and rebuilds so far",
                "short",
                {
                    "partitions taken over": f"sum({name_of(M.TAKEOVER_MS)}_count)",
                    "sessions rebuilt": total(M.SESSIONS_REBUILT),
                },
                "Each takeover fences the partition's former owner.",
            ),
            panel("Takeover of a partition", "ms", quantiles(M.TAKEOVER_MS)),
        ],
        "The engine": [
            panel("Tokens fed a second", "ops", {"{{kind}}": rate(M.TOKENS_FED, "kind")}),
            panel(
                "Sessions",
                "short",
                {
                    "live": total(M.SESSIONS),
                    "room for": total(M.SESSION_CAPACITY),
                    "waiting for room": total(M.WATCHES_WAITING),
                    "pinned prefixes": total(M.PINNED_PREFIXES),
                },
                "Waiting above 0: add replicas.",
            ),
            panel(
                "Replicas",
                "short",
                {
                    "replicas": f"count({name_of(M.PARTITIONS_OWNED)})",
                    "partitions owned": total(M.PARTITIONS_OWNED),
                },
                "Each partition has one owner: a sum below their number is a takeover under way.",
            ),
            panel(
                "Step utilisation of each replica",
                "percentunit",
                {"{{instance}}": name_of(M.STEP_UTILISATION)},
                M.STEP_UTILISATION[2],
            ),
            panel("Lag of each replica", "s", {"{{instance}}": name_of(M.LAG_S)}, M.LAG_S[2]),
            panel("KV blocks", "short", {"held": total(M.KV_HELD_BLOCKS), "free": total(M.KV_FREE_BLOCKS)}),
            panel("Tokens in a step", "short", quantiles(M.BATCH_TOKENS)),
            panel("Frames in an encoder batch", "short", quantiles(M.ENCODE_BATCH_FRAMES)),
            panel(
                "Rounds decided a second",
                "ops",
                {
                    "{{task}} {{state}}": rate(M.ROUNDS_DECIDED, "task, state"),
                    "evicted": rate(M.ROUNDS_EVICTED),
                },
            ),
        ],
        "What must not be": [
            panel("Holes or repeats in seq", "short", {"so far": total(M.SEQ_VIOLATIONS)}, "Must stay 0."),
            panel("Quarantined records", "short", {"so far": total(M.RECORDS_QUARANTINED)}),
            panel("Frames waiting", "short", {"so many": total(M.PENDING_FRAMES)}),
            panel("Checkpoints a second", "ops", {"{{reason}}": rate(M.CHECKPOINTS, "reason")}),
            panel("Best token was no state's", "ops", {"rounds a second": rate(M.SOFTMAX_DISAGREEMENTS)}),
            panel(
                "Events delivered a second",
                "ops",
                {"{{kind}}": rate(M.EVENTS_DELIVERED, "kind")},
                "To all subscribers together.",
            ),
        ],
    }


def board() -> dict:
    panels: list[dict] = []
    y = 0
    for title, row in rows().items():
        panels.append(
            {"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []}
        )
        y += 1
        for number, one in enumerate(row):
            x, line = number % 3 * _WIDTH, number // 3
            panels.append({**one, "gridPos": {"x": x, "y": y + line * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}})
        y += (len(row) + 2) // 3 * _HEIGHT
    return {
        "uid": "streamo",
        "title": "Streamo",
        "tags": ["streamo"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "panels": [{"id": number, **one} for number, one in enumerate(panels, start=1)],
    }


if __name__ == "__main__":
    json.dump(board(), sys.stdout, indent=1)
    print()
