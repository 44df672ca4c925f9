"""The board's queries, over series whose answer is plain."""

import json
from collections.abc import Iterator

import pytest

from tests.bench.board_picture import BOARD
from tests.bench.metric_store import MetricStore


@pytest.fixture
def store() -> Iterator[MetricStore]:
    store = MetricStore()
    for second in range(0, 61, 10):
        for instance, per_s in (("a", 2.0), ("b", 3.0)):
            store.add("rounds", {"instance": instance, "task": "qa"}, second, per_s * second)
        for bound, share in (("10", 0.5), ("20", 0.9), ("inf", 1.0)):
            store.add("took_bucket", {"instance": "a", "le": bound}, second, 100 * share * second)
        store.add("silent", {"stream_id": "gate"}, second, 4.0)
        store.add("silent", {"stream_id": "yard"}, second, 40.0)
    yield store
    store.stop()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("sum(rate(rounds[30s]))", {(): 5.0}),
        ("sum by (instance) (rate(rounds[30s]))", {("a",): 2.0, ("b",): 3.0}),
        ("sum(rounds)", {(): 300.0}),
        ('sum(rounds{instance="b"})', {(): 180.0}),
        ("sum(increase(rounds[1m]))", {(): 300.0}),
        ("histogram_quantile(0.5, sum by (le) (rate(took_bucket[30s])))", {(): 10.0}),
        ("histogram_quantile(0.7, sum by (le) (rate(took_bucket[30s])))", {(): 15.0}),
        ("topk(1, max by (stream_id) (silent))", {("yard",): 40.0}),
        ("topk(10, max by (stream_id) (silent > 5) > 0)", {("yard",): 40.0}),
        ("max by (stream_id) (absent_one)", {}),
    ],
)
def test_a_query_means_what_it_means_in_prometheus(
    store: MetricStore, expression: str, expected: dict[tuple[str, ...], float]
):
    found = {
        tuple(value for _, value in labels): value for labels, value in store.query(expression, 60.0).items()
    }
    assert found == pytest.approx(expected)


def test_a_series_that_nobody_sends_any_more_ends(store: MetricStore):
    assert store.query("silent", 179.0)
    assert store.query("silent", 181.0) == {}


def test_every_query_of_the_board_is_understood(store: MetricStore):
    panels = json.loads(BOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 50
    for expression in expressions:
        assert store.query(expression.replace("$__rate_interval", "30s"), 60.0) == {}


@pytest.mark.parametrize("expression", ["sum(rounds", "rounds > ", "median(rounds)", "rounds + 1"])
def test_what_is_not_understood_is_refused(store: MetricStore, expression: str):
    with pytest.raises(ValueError, match=r"understood|expected|convert"):
        store.query(expression, 60.0)
