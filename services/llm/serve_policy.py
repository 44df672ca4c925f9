"""The autoscaling policy of the LLM deployment, as Ray Serve calls it: ten times a second, in its controller.

Serve counts the requests that a replica has under way. Ours pull their work, and would always count as idle; so each
reports its load by `record_autoscaling_stats`. Serve waits until an answer has stood for `upscale_delay_s` or
`downscale_delay_s`, and keeps within the least and the most replicas.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields
from typing import Protocol

from services.llm.autoscaling import Autoscaling, ReplicaLoad, ScalingTargets

# The only one that is set up in the controller.
log = logging.getLogger("ray.serve")


class Sample(Protocol):
    timestamp: float
    value: float


class Configuration(Protocol):
    look_back_period_s: float


class Context(Protocol):
    """What is used of ray.serve.config.AutoscalingContext."""

    target_num_replicas: int
    current_time: float
    config: Configuration

    @property
    def raw_metrics(self) -> Mapping[str, Mapping[Hashable, Sequence[Sample]]]:
        """Metric and running replica to its samples, oldest first."""
        ...


class ServePolicy:
    """Made by Serve, from JSON; `targets` are the fields of ScalingTargets."""

    def __init__(self, num_partitions: int, targets: Mapping[str, float]) -> None:
        self._autoscaling = Autoscaling(ScalingTargets(**targets), num_partitions)
        self._last_wanted = 0

    def __call__(self, context: Context) -> tuple[int, dict[str, object]]:
        loads = _loads(context)
        wanted = self._autoscaling.wanted(loads, context.target_num_replicas)
        if wanted != self._last_wanted:
            self._last_wanted = wanted
            log.info(f"{wanted} LLM replicas wanted instead of {context.target_num_replicas}: {loads}")
        return wanted, {}


def _loads(context: Context) -> list[ReplicaLoad]:
    """The newest load of each replica that has reported lately; the others count as unknown."""
    oldest_s = context.current_time - context.config.look_back_period_s
    metrics = context.raw_metrics
    found: dict[Hashable, dict[str, float]] = {}
    for field in fields(ReplicaLoad):
        for replica, samples in metrics.get(field.name, {}).items():
            if samples and samples[-1].timestamp >= oldest_s:
                found.setdefault(replica, {})[field.name] = samples[-1].value
    return [ReplicaLoad.of(one) for one in found.values() if len(one) == len(fields(ReplicaLoad))]
