import pytest

from services.ingest.delivery_watch import FORGOTTEN_AFTER_S, DeliveryWatch
from services.shared.errors import Unavailable


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_client_with_nothing_to_do_is_well_however_long() -> None:
    clock = Clock()
    watch = DeliveryWatch(clock)
    watch.sent()
    watch.done()
    clock.now_s = 10 * FORGOTTEN_AFTER_S
    watch.check()
    watch.sent()
    watch.check()


def test_a_client_that_moves_slowly_is_well() -> None:
    clock = Clock()
    watch = DeliveryWatch(clock)
    watch.sent()
    for _ in range(10):
        watch.sent()
        clock.now_s += FORGOTTEN_AFTER_S - 1
        watch.done()
        watch.check()


def test_a_client_that_stands_still_is_told() -> None:
    clock = Clock()
    watch = DeliveryWatch(clock)
    watch.sent()
    clock.now_s = FORGOTTEN_AFTER_S + 1
    with pytest.raises(Unavailable, match="neither delivered nor given up"):
        watch.check()
