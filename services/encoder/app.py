"""The encoder's Ray Serve application."""

from ray.serve import Application

from services.encoder.deployment import Encoder
from services.shared.settings import Settings


def build_app(settings: Settings) -> Application:
    """`settings` travel as an argument: a replica does not see the environment of whoever deploys it."""
    encoder = settings.encoder
    return Encoder.options(  # type: ignore[attr-defined, no-any-return]
        num_replicas=encoder.num_replicas,
        # Enough that a batch can gather while the one before it is encoded.
        max_ongoing_requests=4 * encoder.max_batch_frames,
        ray_actor_options={"num_cpus": settings.model.num_threads, "num_gpus": encoder.num_gpus},
    ).bind(settings)
