"""What Serve is told about the encoder's replicas."""

from typing import Any

import pytest

from services.encoder.app import replica_options
from services.encoder.deployment import Encoder
from services.shared.settings import EncoderSettings


@pytest.mark.parametrize("max_replicas", [1, 3], ids=["a fixed number", "by load"])
@pytest.mark.parametrize(("setting", "told"), [({}, None), ({"max_replicas_per_node": 1}, 1)])
def test_replicas_on_a_node_are_bounded_where_the_setting_says(
    max_replicas: int, setting: dict[str, int], told: int | None
) -> None:
    made: Any = Encoder
    options = replica_options(EncoderSettings(max_replicas=max_replicas, **setting))
    assert made.options(**options)._replica_config.max_replicas_per_node == told


def test_serve_takes_the_greatest_bound() -> None:
    greatest = EncoderSettings.model_json_schema()["properties"]["max_replicas_per_node"]["maximum"]
    made: Any = Encoder
    made.options(**replica_options(EncoderSettings(max_replicas_per_node=greatest)))
