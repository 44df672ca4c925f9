"""How the chart renders in each profile, written down. `make chart-golden` writes tests/deploy/golden."""

from pathlib import Path

import yaml

from tests.deploy.chart import PROFILES, objects

DIRECTORY = Path(__file__).parent / "golden"


def path(profile: str) -> Path:
    return DIRECTORY / f"{profile}.yaml"


def render(profile: str) -> str:
    """The objects in the order of kind and name, files that it only carries left out."""
    made = sorted(objects(profile), key=lambda one: (one["kind"], one["metadata"]["name"]))
    return yaml.safe_dump_all([_short(one) for one in made], sort_keys=True, width=120)


def _short(one: dict) -> dict:
    if one["kind"] == "PrometheusRule":
        return {**one, "spec": "charts/streamo/files/alerts.yaml"}
    if one["metadata"]["name"].endswith("-board"):
        return {**one, "data": dict.fromkeys(one["data"], "charts/streamo/files/board.json")}
    return one


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for profile in PROFILES:
        path(profile).write_text(render(profile))
