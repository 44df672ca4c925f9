"""The Ray Serve application: the LLM replicas, and the encoder that they call."""

from dataclasses import asdict
from typing import Any

from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from services.encoder.app import build_app as build_encoder
from services.llm.autoscaling import ScalingTargets
from services.llm.deployment import LLM
from services.llm.serve_policy import ServePolicy
from services.shared.settings import Settings


def build_app(settings: Settings) -> Application:
    """For `serve.run`, or as `import_path` of a RayService, whose `args` are then the settings."""
    return LLM.options(  # type: ignore[attr-defined, no-any-return]
        **replica_options(settings),
        ray_actor_options={"num_cpus": settings.model.num_threads, "num_gpus": settings.llm.num_gpus},
    ).bind(settings, build_encoder(settings))


def replica_options(settings: Settings) -> dict[str, Any]:
    """Serve's options: a fixed number, or an autoscaler's. A replica more than partitions would own none."""
    llm = settings.llm
    num_partitions = settings.kafka.partitions
    at_most = min(llm.max_replicas, num_partitions)
    at_least = min(llm.min_replicas, at_most)
    if at_least == at_most:
        return {"num_replicas": at_most}
    targets = ScalingTargets(llm.target_occupancy, llm.target_utilisation, llm.target_lag_s)
    policy = AutoscalingPolicy(
        policy_function=ServePolicy,
        policy_kwargs={"num_partitions": num_partitions, "targets": asdict(targets)},
    )
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=at_least,
            max_replicas=at_most,
            upscale_delay_s=llm.upscale_delay_s,
            downscale_delay_s=llm.downscale_delay_s,
            policy=policy,
        )
    }
