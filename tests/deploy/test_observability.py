"""The board and the alerts against the metrics that the code declares."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from services.shared.telemetry import Metrics

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts/streamo/files"
DECLARED = {value[0].replace(".", "_") for name, value in vars(Metrics).items() if not name.startswith("_")}


def used_in(expression: str) -> set[str]:
    return {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"streamo_\w+", expression)}


def board_queries() -> list[str]:
    board = json.loads((FILES / "board.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def rules() -> list[dict]:
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_board_is_what_its_source_makes():
    made = subprocess.run(
        [sys.executable, "infra/observability/board.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == (FILES / "board.json").read_text()


def test_every_declared_metric_is_on_the_board_and_no_other():
    shown = set().union(*map(used_in, board_queries()))
    assert shown == DECLARED


def test_alerts_ask_for_declared_metrics_and_have_a_runbook():
    text = (ROOT / "docs/operations.md").read_text()
    anchors = {title.strip().lower() for title in re.findall(r"^#+ (.*)$", text, re.M)}
    for rule in rules():
        assert used_in(rule["expr"]), rule["alert"]
        assert used_in(rule["expr"]) <= DECLARED, rule["alert"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, rule["alert"]


def test_takeovers_of_replicas_that_start_and_die_are_counted():
    """They are in a new series that begins with all of them: it never rises."""
    (rule,) = [rule for rule in rules() if rule["alert"] == "StreamoTakeoversRepeat"]
    assert not re.search(r"\b(increase|rate|delta)\(", rule["expr"])
    assert "offset" in rule["expr"]


@pytest.mark.parametrize(
    ("service", "metric"), [("llm", Metrics.PARTITIONS_OWNED), ("gateway", Metrics.SUBSCRIBERS)]
)
def test_a_service_of_which_nothing_is_left_is_told(service: str, metric: tuple[str, str, str]):
    """Nobody else tells: ingest's absence shows as silent streams, the encoder's ends the LLM replicas."""
    name = metric[0].replace(".", "_")
    assert name.startswith(f"streamo_{service}_")
    told = [rule for rule in rules() if f"absent({name})" in rule["expr"]]
    assert [rule["labels"]["severity"] for rule in told] == ["critical"]


@pytest.mark.parametrize("suffix", ["_bucket", "_count"])
def test_quantiles_and_rates_of_records_are_of_histograms(suffix: str):
    """A query of buckets of something that is counted, not recorded, would stay empty for ever."""
    code = "".join(path.read_text() for path in (ROOT / "services").rglob("*.py"))
    recorded = set(re.findall(r"\.record\(\s*Metrics\.(\w+)", code))
    asked = "\n".join([*board_queries(), *(rule["expr"] for rule in rules())])
    names = re.findall(rf"(streamo_\w+){suffix}\b", asked)
    assert names
    for name in names:
        constant = next(
            key for key, value in vars(Metrics).items()
            if not key.startswith("_") and value[0].replace(".", "_") == name
        )  # fmt: skip
        assert constant in recorded, name
