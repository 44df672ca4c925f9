"""One whole local stack for all end-to-end tests, with two simulated cameras and a collector of spans."""

from collections.abc import Iterator

import pytest
from support.span_collector import SpanCollector
from support.stack import PASSWORD, USERNAME

from services.cli.client import Client
from services.local.local_stack import LocalStack
from services.shared.settings import Settings


@pytest.fixture(scope="session")
def collector() -> Iterator[SpanCollector]:
    collector = SpanCollector()
    yield collector
    collector.stop()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: SpanCollector) -> Iterator[LocalStack]:
    settings = Settings.model_validate(
        {
            "kafka": {"partitions": 4},
            "gateway": {"port": 0, "bookmark_period_s": 1},
            "telemetry": {"otlp_endpoint": collector.endpoint, "metric_period_s": 2},
        }
    )
    stack = LocalStack(tmp_path_factory.mktemp("stack"), settings)
    with stack:
        # Places where people come and go at least every minute for the first 20.
        login = ["--user", f"{USERNAME}:{PASSWORD}"]
        stack.start_cameras(["--port", "0", *login, "--streams", "gate=18", "yard=183"])
        yield stack


@pytest.fixture(scope="session")
def urls(stack: LocalStack) -> dict[str, str]:
    assert stack.cameras is not None
    return {camera.name: camera.url for camera in stack.cameras.cameras}


@pytest.fixture
def client(stack: LocalStack) -> Iterator[Client]:
    with Client(stack.gateway_address) as client:
        yield client
