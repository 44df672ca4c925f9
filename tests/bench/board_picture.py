"""The board as a picture, filled by a run: `make board-picture` writes docs/images/board.png.

It is our own drawing of the panels' queries (charts/streamo/files/board.json) over what the services of a local stack
sent while two simulated cameras were watched; it is not a picture of Grafana.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from services.cli.client import Client
from services.local.local_stack import LocalStack
from services.shared.settings import Settings
from streamo.v1.task_pb2 import Task
from tests.bench.metric_store import MetricStore

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "charts/streamo/files/board.json"
OUT = ROOT / "docs/images/board.png"
WATCHES = {
    "story": (Task.TASK_NARRATION, "Tell me what happens."),
    "steps": (Task.TASK_ACTION, "Describe what people do."),
    "cars": (Task.TASK_EVENT, "Tell me when a car arrives."),
    "times": (Task.TASK_GROUNDING, "Find the time when a car arrives."),
    "people": (Task.TASK_QA, "How many people are there?"),
}
_STEP_S = 4.0
_COLUMNS = 3


def record(store: MetricStore, duration_s: float) -> None:
    """Two cameras with all five tasks, one of them also lost and one that was never there; a subscriber to all."""
    settings = Settings.model_validate(
        {
            "kafka": {"partitions": 4},
            "gateway": {"port": 0, "bookmark_period_s": 1},
            "telemetry": {"otlp_endpoint": store.endpoint, "metric_period_s": 2},
        }
    )
    with tempfile.TemporaryDirectory() as directory, LocalStack(Path(directory), settings) as stack:
        stack.start_cameras(["--port", "0", "--streams", "gate=18", "yard=183"])
        assert stack.cameras is not None
        with Client(stack.gateway_address) as client:
            for camera in stack.cameras.cameras:
                client.add_stream(camera.name, camera.url)
                for watch_id, (task, instruction) in WATCHES.items():
                    client.add_watch(camera.name, watch_id, task, instruction)
            client.add_stream("away", "rtsp://127.0.0.1:1/none")
            with client.subscribe(start="now", deadline_s=duration_s) as subscription:
                for _ in subscription:
                    pass


def draw(store: MetricStore, begin_s: float, end_s: float) -> None:
    panels = [one for one in json.loads(BOARD.read_text())["panels"] if one["type"] != "row"]
    lines = -(-len(panels) // _COLUMNS)
    figure, axes = pyplot.subplots(lines, _COLUMNS, figsize=(6 * _COLUMNS, 2.8 * lines), layout="constrained")
    times = [begin_s + _STEP_S * step for step in range(int((end_s - begin_s) / _STEP_S))]
    for axis, panel in zip(axes.flat, panels, strict=False):
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "30s")
            curves: dict[str, list[tuple[float, float]]] = {}
            for at_s in times:
                for labels, value in store.query(expression, at_s).items():
                    curves.setdefault(_legend(target["legendFormat"], labels), []).append(
                        (at_s - begin_s, value)
                    )
            for legend, points in curves.items():
                axis.plot(*zip(*points, strict=True), label=legend, linewidth=1.2)
        axis.set_title(
            f"{panel['title']} [{panel['fieldConfig']['defaults']['unit']}]", fontsize=9, loc="left"
        )
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=6, loc="upper left")
        else:
            axis.text(
                0.5,
                0.5,
                "nothing happened that it tells of",
                ha="center",
                transform=axis.transAxes,
                fontsize=8,
            )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("seconds")
    figure.savefig(OUT, dpi=80)


def _legend(pattern: str, labels: frozenset[tuple[str, str]]) -> str:
    values = dict(labels)
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values.get(match[1], ""), pattern)


def main() -> None:
    duration_s = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    store = MetricStore()
    begin_s = time.time()
    record(store, duration_s)
    store.stop()
    draw(store, begin_s, time.time())
    print(f"written: {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
