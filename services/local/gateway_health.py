"""Whether a gateway answers, asked as a load balancer would."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def gateway_serves(address: str, timeout_s: float = 1.0) -> bool:
    """Whoever it is that listens there: compare with `listens`."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
