"""The chart rendered by Helm, for each profile, as data."""

import subprocess
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/streamo"
TOOLS = ROOT / ".cache/deploy-tools"
HELM = TOOLS / "bin/helm"
APIS = ("ray.io/v1", "kafka.strimzi.io/v1", "monitoring.coreos.com/v1")
REGISTRY = "image.registry=registry.example"
GIVEN = (
    REGISTRY,
    "kafka.bootstrapServers=kafka.example:9092",
    "redisExternal.url=rediss://streamo@redis.example:6379/0",
)
PROFILES = {
    "default": ((), GIVEN),
    "dev": (("dev",), (REGISTRY,)),
    "prod": (("prod",), (*GIVEN, "cameras.allowedCIDRs={10.1.0.0/16}")),
    "gpu": (("prod", "gpu"), (*GIVEN, "checkpoint.volume.persistentVolumeClaim.claimName=models")),
}

needs_helm = pytest.mark.skipif(not HELM.exists(), reason="no Helm: make deploy-tools")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60)


def values_of(profile: str) -> list[str]:
    files, given = PROFILES[profile]
    arguments = [text for name in files for text in ("--values", str(CHART / f"values-{name}.yaml"))]
    return arguments + [text for value in given for text in ("--set", value)]


def known(apis: tuple[str, ...]) -> list[str]:
    """To be told to Helm where there is no cluster to ask."""
    return [text for api in apis for text in ("--api-versions", api)]


def template(*arguments: str, apis: tuple[str, ...] = APIS) -> subprocess.CompletedProcess[str]:
    return helm("template", "streamo", str(CHART), "--kube-version", "1.33.0", *known(apis), *arguments)


def objects(profile: str) -> list[dict]:
    """The caller's own: some checks change what they are given."""
    return deepcopy(_objects(profile))


@cache
def _objects(profile: str) -> list[dict]:
    return objects_in(template(*values_of(profile)))


def objects_in(rendered: subprocess.CompletedProcess[str]) -> list[dict]:
    assert rendered.returncode == 0, rendered.stderr
    return [one for one in yaml.safe_load_all(rendered.stdout) if one]


def of_kind(profile: str, kind: str) -> list[dict]:
    return [one for one in objects(profile) if one["kind"] == kind]


def named(profile: str, kind: str, name: str) -> dict:
    return next(one for one in of_kind(profile, kind) if one["metadata"]["name"] == name)


def pods(profile: str) -> dict[str, dict]:
    return pods_in(objects(profile))


def pods_in(made: list[dict]) -> dict[str, dict]:
    """name: template, of everything that becomes pods."""
    found = {}
    for one in made:
        name = one["metadata"]["name"]
        if one["kind"] in ("Deployment", "Job"):
            found[name] = one["spec"]["template"]
        elif one["kind"] == "Pod":
            found[name] = one
        elif one["kind"] == "RayService":
            cluster = one["spec"]["rayClusterConfig"]
            found["ray-head"] = cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                found[f"ray-worker-{group['groupName']}"] = group["template"]
    return found


def containers(profile: str) -> list[tuple[str, dict]]:
    return [(name, one) for name, pod in pods(profile).items() for one in pod["spec"]["containers"]]


def containers_of(profile: str, pod: str) -> list[dict]:
    return pods(profile)[pod]["spec"]["containers"]


def settings_of(profile: str) -> dict[str, str]:
    return settings_in(objects(profile))


def settings_in(made: list[dict]) -> dict[str, str]:
    return next(
        one["data"] for one in made if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "streamo"
    )


profiles = pytest.mark.parametrize("profile", PROFILES)
