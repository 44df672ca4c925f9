import json
from pathlib import Path

import pytest

from models.vlm.streamo_config import StreamoConfig

GIVEN = {"window_rounds": 32, "max_reply_tokens": 40, "system_prompt": "Watch."}


def write(directory: Path, **values: object) -> None:
    (directory / "streamo.json").write_text(json.dumps({**GIVEN, **values}), encoding="utf-8")


def test_a_checkpoint_without_a_bias_has_none(tmp_path: Path) -> None:
    write(tmp_path)
    assert StreamoConfig.load(tmp_path).state_bias == (0.0, 0.0)


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    config = StreamoConfig(32, 40, "Watch.", state_bias=(-0.5, 1.25))
    config.save(tmp_path)
    assert StreamoConfig.load(tmp_path) == config


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"state_bias": [0.5]}, "state_bias must be two finite numbers, for Standby and Response"),
        ({"state_bias": [0.5, float("nan")]}, "state_bias must be two finite numbers"),
        ({"state_bias": 0.5}, "state_bias"),
        ({"state_bias": ["a", "b"]}, "state_bias"),
        ({"state_bias": [True, False]}, "state_bias"),
        ({"window_rounds": 0}, "window_rounds must be at least 1"),
        ({"window_rounds": "32"}, "window_rounds must be a whole number, got '32'"),
        ({"window_rounds": 32.5}, "window_rounds must be a whole number, got 32.5"),
        ({"max_reply_tokens": True}, "max_reply_tokens must be a whole number, got True"),
        ({"max_instruction_tokens": None}, "max_instruction_tokens must be a whole number, got None"),
        ({"system_prompt": 3}, "system_prompt must be a text, got 3"),
        ({"window": 3}, "unknown names"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, values: dict[str, object], told: str) -> None:
    write(tmp_path, **values)
    with pytest.raises(ValueError, match=told):
        StreamoConfig.load(tmp_path)


def test_a_file_that_holds_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "streamo.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"streamo\.json must hold an object, got list"):
        StreamoConfig.load(tmp_path)
