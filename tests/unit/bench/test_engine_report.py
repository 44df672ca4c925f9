"""What stands in docs/benchmarks is one run's results, and says what they say."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import engine_report
from tests.bench.results import Results, from_json, to_json

DOCS = Path(__file__).parents[3] / "docs" / "benchmarks"


@pytest.fixture(scope="module")
def results() -> Results:
    return from_json((DOCS / "engine.json").read_text(encoding="utf-8"))


def test_the_report_is_written_from_the_results_beside_it(results: Results) -> None:
    assert (DOCS / "engine.md").read_text(encoding="utf-8") == engine_report.write(results)


def test_results_survive_the_way_to_json_and_back(results: Results) -> None:
    assert from_json(to_json(results)) == results


def test_a_goal_that_is_missed_is_called_missed(results: Results) -> None:
    def verdict(changed: Results) -> str:
        (line,) = [line for line in engine_report.write(changed).splitlines() if "| flat to round" in line]
        return line.split("|")[4].strip()

    aging = results.aging
    slow = replace(aging.samples[-1], ratio=replace(aging.samples[-1].ratio, median=1.06))
    flat = replace(aging.samples[-1], ratio=replace(aging.samples[-1].ratio, median=1.0))
    assert verdict(replace(results, aging=replace(aging, samples=(flat,)))) == "met"
    assert verdict(replace(results, aging=replace(aging, samples=(flat, slow)))) == "**missed**"
