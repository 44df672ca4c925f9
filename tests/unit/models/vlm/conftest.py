from pathlib import Path

import pytest

from models.training.scratch_model import Architecture, write_random_checkpoint
from models.training.tokenizer import train_tokenizer
from models.vlm.frame_size import FrameBudget
from models.vlm.streamo_config import StreamoConfig

TEXTS = [
    "system user assistant",
    "A red car is at the gate.",
    "Tell me when a person arrives.",
    "<12s-13.5s>\n",
] * 3
SMALL = Architecture(
    hidden_size=64,
    intermediate_size=96,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    mrope_section=(6, 5, 5),
    vision_hidden_size=32,
    vision_intermediate_size=48,
    vision_depth=3,
    vision_num_heads=2,
    vision_window_size=56,  # smaller than a frame, so that windows, full layers and padding all occur
    vision_full_attention_layers=(1,),
    initializer_range=0.1,  # large, so that a mistake shows
)


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model directory with random weights."""
    model_dir = tmp_path_factory.mktemp("random_checkpoint")
    write_random_checkpoint(
        model_dir,
        SMALL,
        train_tokenizer(TEXTS, vocab_size=320),
        StreamoConfig(window_rounds=8, max_reply_tokens=16, system_prompt="Say </Silence> or </Response>."),
        FrameBudget(min_pixels=28 * 28, max_pixels=140 * 112),
        seed=0,
    )
    return model_dir
