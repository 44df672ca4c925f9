import pytest
import torch
from engine_support import make_model

from models.vlm.model import LanguageModel


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    """A small random model whose decisions vary; tests may not change it."""
    return make_model()
