"""The plan for more cameras rests on measured figures: when those are written anew, it is to be computed anew."""

from tests.bench import scaling_plan


def test_the_plan_is_of_the_figures_measured_last() -> None:
    told = (scaling_plan.ROOT / "docs/benchmarks/scaling.md").read_text()
    assert told == scaling_plan.write(), "run `make scaling-plan`, and go through docs/scaling.md"
