"""How many LLM replicas there should be, from what each of them reports. Knows nothing of Ray or Kafka."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

# One replica leaves only where the others would stay this far below what brings one in: else they would take turns.
_HEADROOM = 0.2
# What computing in floats may have left of a whole number.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ReplicaLoad:
    """What one replica has to do. Sessions count watches that run and watches that wait for room alike."""

    partitions: int = 0
    sessions: int = 0
    waiting: int = 0
    """Of the sessions, those that there is no room for."""
    heaviest_sessions: int = 0
    """Of the sessions, those of the partition that has most."""
    capacity: int = 1
    """Sessions that there is room for."""
    lag_s: float = 0.0
    """Age of the oldest frame that is still to be decided."""
    utilisation: float = 0.0
    """Share of wall time inside engine steps, lately, without replays."""

    def metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> ReplicaLoad:
        """The way back from `metrics`. KeyError where one is missing."""
        return cls(
            partitions=int(metrics["partitions"]),
            sessions=int(metrics["sessions"]),
            waiting=int(metrics["waiting"]),
            heaviest_sessions=int(metrics["heaviest_sessions"]),
            capacity=int(metrics["capacity"]),
            lag_s=metrics["lag_s"],
            utilisation=metrics["utilisation"],
        )


@dataclass(frozen=True)
class ScalingTargets:
    """What a replica should come to on average; beyond it there should be one more."""

    occupancy: float
    """Sessions over capacity."""
    utilisation: float
    lag_s: float


@dataclass(frozen=True)
class Autoscaling:
    """Pure and without memory: equal loads get equal answers, and whoever asks waits until an answer has stood.

    An answer is between 1 and the number of partitions: a replica beyond that would own none. It goes up as far as
    the load asks for, and down by one, where the rest would hold the load with headroom wherever the partitions of
    the one that leaves go. A load that does not change never gets a step up after a step down.
    """

    targets: ScalingTargets
    num_partitions: int

    def wanted(self, loads: Sequence[ReplicaLoad], num_replicas: int) -> int:
        """`loads`: of the replicas that run and report; `num_replicas`: how many are wanted now."""
        if not loads:
            return num_replicas
        is_settled = self._is_settled(loads, num_replicas)
        wanted = max(num_replicas, self._needed(loads))
        if is_settled and any(map(self._has_too_much, loads)):
            wanted = max(wanted, num_replicas + 1)
        if wanted == num_replicas and is_settled and self._fits_fewer(loads):
            wanted -= 1
        return min(wanted, self.num_partitions)

    def _needed(self, loads: Sequence[ReplicaLoad]) -> int:
        """So many that they come to the targets on average."""
        sessions = sum(load.sessions for load in loads) / (self.targets.occupancy * _capacity(loads))
        work = sum(load.utilisation for load in loads) / self.targets.utilisation
        return math.ceil(max(sessions, work) - _ROUNDING)

    def _is_settled(self, loads: Sequence[ReplicaLoad], num_replicas: int) -> bool:
        """Whether the loads are all that there is: not while replicas start or end, or partitions change hands."""
        owned = [load.partitions for load in loads]
        return (
            len(loads) == num_replicas and sum(owned) == self.num_partitions and max(owned) - min(owned) <= 1
        )

    def _has_too_much(self, load: ReplicaLoad) -> bool:
        """Whether one more should take partitions off this one, though the mean may be low.

        One that is behind without being busy waits for what that would not mend: the encoder, Kafka, the replays
        after a takeover.
        """
        if load.partitions <= 1:
            return False
        is_nearly_full = load.sessions > (1 + self.targets.occupancy) / 2 * load.capacity
        is_behind = load.lag_s > self.targets.lag_s and load.utilisation > self.targets.utilisation
        return is_nearly_full or is_behind

    def _fits_fewer(self, loads: Sequence[ReplicaLoad]) -> bool:
        """Whether any one of the replicas could leave. Which one does is not for us to say."""
        if len(loads) <= 1 or any(load.waiting or load.lag_s > self.targets.lag_s for load in loads):
            return False
        capacity = _capacity(loads)
        partitions_after = math.ceil(self.num_partitions / (len(loads) - 1))
        for leaving in loads:
            for staying in loads:
                if staying is leaving:
                    continue
                # The group shares partitions out evenly, and those that stay keep theirs.
                taken = max(0, min(partitions_after - staying.partitions, leaving.partitions))
                sessions_taken = min(leaving.sessions, taken * leaving.heaviest_sessions)
                share = sessions_taken / leaving.sessions if leaving.sessions else 0.0
                occupancy = (staying.sessions + sessions_taken) / capacity
                utilisation = staying.utilisation + share * leaving.utilisation
                if occupancy > (1 - _HEADROOM) * self.targets.occupancy:
                    return False
                if utilisation > (1 - _HEADROOM) * self.targets.utilisation:
                    return False
        return True


def _capacity(loads: Sequence[ReplicaLoad]) -> int:
    """Replicas are alike; those with few sessions do not know yet how much memory a session takes."""
    return max(1, min(load.capacity for load in loads))
