"""The Ray Serve application: the LLM replicas, and the encoder that they call."""

from ray.serve import Application

from services.encoder.app import build_app as build_encoder
from services.llm.deployment import LLM
from services.shared.settings import Settings


def build_app(settings: Settings) -> Application:
    """For `serve.run`, or as `import_path` of a RayService, whose `args` are then the settings."""
    return LLM.options(  # type: ignore[attr-defined, no-any-return]
        num_replicas=settings.llm.num_replicas,
        ray_actor_options={"num_cpus": settings.model.num_threads, "num_gpus": settings.llm.num_gpus},
    ).bind(settings, build_encoder(settings))
