"""The load doubles, a second replica takes over partitions, the load falls, it leaves: and the promise holds."""

from pathlib import Path

import pytest
from support.scale_out import NUM_PARTITIONS, ScaleOut


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_second_replica_comes_with_the_load_and_leaves_with_it(tmp_path: Path) -> None:
    timeline = ScaleOut(tmp_path).run()
    assert timeline.events > 0
    assert set(timeline.violations.values()) == {()}, timeline.violations
    before, doubled, after = (timeline.of_phase(phase) for phase in ScaleOut.PHASES)
    assert {moment.processes for moment in before} == {1}
    # The third that the settings allow never comes.
    assert {moment.processes for moment in doubled} == {1, 2}
    assert max(moment.total("waiting") for moment in doubled) > 0, "one replica had no room for all"
    assert doubled[-1].total("waiting") == 0
    assert doubled[-1].owners == [NUM_PARTITIONS / 2] * 2
    # Nor does the second leave and come back.
    processes = [moment.processes for moment in after]
    assert processes == sorted(processes, reverse=True)
    assert after[-1].owners == [NUM_PARTITIONS]
