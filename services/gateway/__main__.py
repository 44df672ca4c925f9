"""`python -m services.gateway`: serves until SIGTERM or SIGINT; exits with 1 where it cannot go on."""

import asyncio
import logging
import sys
import time

from kafka.errors import KafkaError

from services.gateway.server import Gateway
from services.shared.errors import ServiceError
from services.shared.lifecycle import StopSignal
from services.shared.service_log import start_logging
from services.shared.settings import Settings
from services.shared.telemetry import Telemetry

_log = logging.getLogger("services.gateway")

_STOP_CHECK_S = 0.5


async def serve(settings: Settings, telemetry: Telemetry, stop: StopSignal) -> bool:
    """Until `stop`, or until the gateway has failed; whether it has not."""
    gateway = Gateway(settings, telemetry, clock_us=lambda: time.time_ns() // 1000)
    await gateway.start()
    _log.info("serving on %s:%d", settings.gateway.host, gateway.port)
    while not gateway.failed.is_set() and not await asyncio.to_thread(stop.wait, _STOP_CHECK_S):
        pass
    failed = gateway.failed.is_set()
    _log.info("stopping%s", " after a failure" if failed else "")
    await gateway.stop()
    return not failed


def main() -> int:
    start_logging()
    stop = StopSignal()
    telemetry = None
    try:
        settings = Settings.load()
        telemetry = Telemetry("gateway", settings.telemetry)
        return 0 if asyncio.run(serve(settings, telemetry, stop)) else 1
    except (ServiceError, KafkaError) as error:
        _log.error("%s: %s", type(error).__name__, error)
        return 1
    finally:
        if telemetry is not None:
            telemetry.close()


if __name__ == "__main__":
    sys.exit(main())
