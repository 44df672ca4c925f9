"""The encoder's Ray Serve application."""

from typing import Any

from ray.serve import Application
from ray.serve.config import AutoscalingConfig

from services.encoder.deployment import Encoder
from services.shared.settings import EncoderSettings, Settings


def build_app(settings: Settings) -> Application:
    """`settings` travel as an argument: a replica does not see the environment of whoever deploys it."""
    encoder = settings.encoder
    return Encoder.options(  # type: ignore[attr-defined, no-any-return]
        **replica_options(encoder),
        # Enough that a batch can gather while the one before it is encoded.
        max_ongoing_requests=4 * encoder.max_batch_frames,
        ray_actor_options={"num_cpus": settings.model.num_threads, "num_gpus": encoder.num_gpus},
    ).bind(settings)


def replica_options(encoder: EncoderSettings) -> dict[str, Any]:
    """Serve's options: a fixed number, or its own autoscaling by the frames that wait or are being encoded."""
    bound = {"max_replicas_per_node": encoder.max_replicas_per_node} if encoder.max_replicas_per_node else {}
    if encoder.min_replicas == encoder.max_replicas:
        return {"num_replicas": encoder.min_replicas, **bound}
    return {
        **bound,
        "autoscaling_config": AutoscalingConfig(
            min_replicas=encoder.min_replicas,
            max_replicas=encoder.max_replicas,
            # More than one full batch for each, on average, means that frames wait.
            target_ongoing_requests=encoder.max_batch_frames,
        ),
    }
