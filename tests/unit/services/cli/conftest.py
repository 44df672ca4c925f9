from collections.abc import Callable, Iterator

import pytest
from support.scripted_gateway import ScriptedGateway


@pytest.fixture
def make_gateway() -> Iterator[Callable[[], ScriptedGateway]]:
    made: list[ScriptedGateway] = []

    def make() -> ScriptedGateway:
        made.append(ScriptedGateway())
        return made[-1]

    yield make
    for gateway in made:
        gateway.stop()


@pytest.fixture
def gateway(make_gateway: Callable[[], ScriptedGateway]) -> ScriptedGateway:
    return make_gateway()
