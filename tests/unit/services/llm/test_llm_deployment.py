"""The LLM replica as Serve starts and watches it, without Ray and without the replica's loop."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from services.llm.deployment import LLM
from services.llm.replica import Replica
from services.shared.errors import Unavailable
from services.shared.settings import Settings


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class that is deployed, on the checkpoint that is shipped."""

    def run(replica: Replica) -> None:
        replica._stopping.wait()
        replica._stopped.set()

    monkeypatch.setattr(Replica, "run", run)
    made = LLM.func_or_class(Settings(), encoder=None)
    yield made
    made.__del__()
    del made._replica


def test_a_loop_that_goes_round_is_well(llm: Any) -> None:
    llm.check_health()


def test_a_loop_that_stands_still_is_bad_health(llm: Any) -> None:
    llm._replica._heartbeat_s = time.monotonic() - 31
    with pytest.raises(Unavailable, match="stands still for 31 s"):
        llm.check_health()


def test_a_loop_that_failed_is_bad_health(llm: Any) -> None:
    llm._replica._failure = ValueError("a bug")
    with pytest.raises(Unavailable, match="a bug"):
        llm.check_health()
