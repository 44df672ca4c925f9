"""Runs an ingest worker: python -m services.ingest; settings by environment (STREAMO_...).

Everything is imported inside `main`: each camera's process imports this module anew and must stay small.
"""

import sys


def main() -> int:
    import logging
    import os

    from kafka.errors import KafkaError

    from services.ingest.worker import Worker
    from services.shared.errors import ServiceError
    from services.shared.lifecycle import StopSignal
    from services.shared.service_log import start_logging
    from services.shared.settings import PREFIX, Settings
    from services.shared.telemetry import Telemetry
    from services.shared.topics import Topics

    # The client tells of every refused connection, many times a second while Kafka is away.
    start_logging(kafka=logging.CRITICAL)
    stop = StopSignal()
    telemetry = None
    try:
        settings = Settings.load()
        # The processes that parse media inherit the environment; what is in these is not for them.
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            del os.environ[name]
        # numpy's thread pool, which would be forked with every one of them, has nothing to do there.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        telemetry = Telemetry("ingest", settings.telemetry)
        Topics.of(settings.kafka).create(settings.kafka)
        Worker(settings, telemetry).run(stop)
    except (ServiceError, KafkaError) as error:
        logging.getLogger("services.ingest").error("%s: %s", type(error).__name__, error)
        return 1
    finally:
        if telemetry is not None:
            telemetry.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
