"""What Ray is started with, to hold the deployments."""

import pytest

from services.llm.app import build_app
from services.local.ray_host import num_cpus_for
from services.shared.settings import EncoderSettings, LlmSettings, ModelSettings, Settings


@pytest.mark.parametrize("num_threads", [1, 9, 64])
def test_ray_has_cpus_for_every_replica_and_for_one_that_starts_in_its_place(num_threads: int) -> None:
    settings = Settings(
        model=ModelSettings(num_threads=num_threads),
        encoder=EncoderSettings(max_replicas=2),
        llm=LlmSettings(max_replicas=3),
    )
    llm = build_app(settings)._bound_deployment
    encoder = llm.init_args[1]._bound_deployment
    needed = 2 * encoder.ray_actor_options["num_cpus"] + 3 * llm.ray_actor_options["num_cpus"]
    assert num_cpus_for(settings) >= 2 * needed
