"""One more gateway beside the stack's own, for as long as a test needs it."""

import sys
from types import TracebackType

from services.cli.client import Client
from services.local.gateway_health import gateway_serves
from services.local.local_stack import LocalStack
from services.local.ports import free_ports
from services.local.service_process import ServiceProcess


class SecondGateway:
    """Entered, it gives a client of that gateway."""

    def __init__(self, stack: LocalStack) -> None:
        port, health_port = free_ports(2)
        address = f"127.0.0.1:{port}"
        self._process = ServiceProcess(
            "gateway-2",
            [sys.executable, "-m", "services.gateway"],
            stack.directory / "logs" / "gateway-2.log",
            environment={
                **stack.settings.environment(),
                "STREAMO_GATEWAY__PORT": str(port),
                "STREAMO_GATEWAY__HEALTH_PORT": str(health_port),
            },
            ready=lambda: gateway_serves(address),
        )
        self._client = Client(address)

    def __enter__(self) -> Client:
        self._process.start()
        return self._client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()
        self._process.stop()
