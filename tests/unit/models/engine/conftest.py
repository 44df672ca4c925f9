import pytest
import torch
from engine_families import FAMILIES
from engine_support import make_model

from models.vlm.model import LanguageModel


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """A small random model of each family, whose decisions vary; tests may not change it."""
    return make_model(request.param)
