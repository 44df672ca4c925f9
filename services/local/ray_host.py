"""The process that holds Ray and the deployments: python -m services.local.ray_host --ready FILE --temp-dir DIR

It starts a Ray node of its own and Serve, waits until Kafka has the topics, deploys, tells its address in FILE, and
stays. Should Ray fail it exits, and whoever supervises it starts it anew.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import ray
from kafka.errors import KafkaError
from ray import serve
from ray.serve.schema import ApplicationStatus

from services.llm.app import build_app
from services.shared.errors import ServiceError, TimedOut, Unavailable
from services.shared.kafka_connection import admin
from services.shared.lifecycle import StopSignal
from services.shared.settings import Settings
from services.shared.topics import Topics

APPLICATION = "streamo"
_RAY_ATTEMPTS = 3
_KAFKA_TIMEOUT_S = 120.0
_CHECK_PERIOD_S = 2.0
_OBJECT_STORE_BYTES = 256 * 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.local.ray_host", description=__doc__)
    parser.add_argument("--ready", type=Path, required=True, help="written once every deployment is ready")
    parser.add_argument("--temp-dir", type=Path, required=True, help="short: Unix sockets live below it")
    arguments = parser.parse_args()
    try:
        settings = Settings.load()
        _start_ray(num_cpus_for(settings), arguments.temp_dir)
        stop = StopSignal()  # after Ray, which sets handlers of its own
        # Frames come from Kafka and events leave by it: nothing calls over HTTP.
        serve.start(proxy_location="Disabled")
        _wait_for_topics(settings, stop)
        serve.run(build_app(settings), name=APPLICATION, route_prefix=None)
        address = ray.get_runtime_context().gcs_address
        arguments.ready.write_text(json.dumps({"address": address, "application": APPLICATION}))
        _stay(stop)
    except ServiceError as error:
        sys.exit(str(error))
    finally:
        arguments.ready.unlink(missing_ok=True)
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()


def num_cpus_for(settings: Settings) -> int:
    """What Ray may promise to replicas: bookkeeping, since they share this machine's. Serve itself takes none."""
    num_replicas = settings.encoder.max_replicas + settings.llm.max_replicas
    # Twice, so that one can start while the one that it stands in for still ends.
    return 2 * num_replicas * settings.model.num_threads


def _start_ray(num_cpus: int, temp_dir: Path) -> None:
    """Ray gives up on its own node after 30 s, which a machine with much else to do may need: tried again."""
    for attempt in range(1, _RAY_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(temp_dir),
            )
            return
        except Exception as error:  # Ray raises a bare one
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if attempt == _RAY_ATTEMPTS:
                raise Unavailable("Ray could not start: this machine has too much else to do") from error
            print(f"Ray did not start in time (attempt {attempt} of {_RAY_ATTEMPTS})", flush=True)


def _stay(stop: StopSignal) -> None:
    while not stop.wait(_CHECK_PERIOD_S):
        status = serve.status().applications[APPLICATION]
        if status.status == ApplicationStatus.DEPLOY_FAILED:
            raise Unavailable(f"the deployments failed: {status.message}")


def _wait_for_topics(settings: Settings, stop: StopSignal) -> None:
    needed = set(vars(Topics.of(settings.kafka)).values())
    deadline_s = time.monotonic() + _KAFKA_TIMEOUT_S
    failure = ""
    while time.monotonic() < deadline_s:
        try:
            asking = admin(settings.kafka)
            try:
                if needed <= set(asking.list_topics()):
                    return
            finally:
                asking.close()
        except KafkaError as error:
            failure = f": {error}"  # most likely it is not up yet
        if stop.wait(0.2):
            raise Unavailable("stopped while waiting for Kafka")
    raise TimedOut(
        f"Kafka at {settings.kafka.bootstrap_servers} had no topics within {_KAFKA_TIMEOUT_S:g} s{failure}"
    )


if __name__ == "__main__":
    main()
