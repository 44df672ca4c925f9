from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.support.tiny_models import FAMILY_NAMES, write_tiny_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=FAMILY_NAMES)
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model directory of each family, with random weights."""
    directory = tmp_path_factory.mktemp(request.param)
    write_tiny_model(directory, request.param)
    return directory


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for what does not depend on the family."""
    directory = tmp_path_factory.mktemp("random_checkpoint")
    write_tiny_model(directory, "qwen2_5_vl")
    return directory


@pytest.fixture(scope="session")
def hf_model(model_dir: Path) -> Any:
    """Hugging Face's whole model of that directory."""
    return AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32).eval()
