"""What a checkpoint says about its dialogue, in `streamo.json` beside the weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

FILE_NAME = "streamo.json"


@dataclass(frozen=True)
class StreamoConfig:
    """Dialogue settings that a checkpoint was trained with and must be served with.

    `state_bias` is added to the logits of Standby and Response: how readily a checkpoint speaks, chosen on validation
    data once it is trained. What a watch asks for (its sensitivity) comes on top.
    """

    window_rounds: int
    max_reply_tokens: int
    system_prompt: str
    max_instruction_tokens: int = 256
    state_bias: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("window_rounds", "max_reply_tokens", "max_instruction_tokens"):
            value = getattr(self, name)
            if type(value) is not int:  # a bool is an int, too
                raise ValueError(f"{FILE_NAME}: {name} must be a whole number, got {value!r}")
            if value < 1:
                raise ValueError(f"{FILE_NAME}: {name} must be at least 1, got {value}")
        if not isinstance(self.system_prompt, str):
            raise ValueError(f"{FILE_NAME}: system_prompt must be a text, got {self.system_prompt!r}")
        is_number = [type(bias) in (int, float) and math.isfinite(bias) for bias in self.state_bias]
        if is_number != [True, True]:
            raise ValueError(
                f"{FILE_NAME}: state_bias must be two finite numbers, for Standby and Response, got {self.state_bias}"
            )

    @classmethod
    def load(cls, model_dir: str | Path) -> StreamoConfig:
        """Read `streamo.json` of a model directory. ValueError for a missing or an unknown name."""
        path = Path(model_dir) / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{path} is missing: this is not a checkpoint made by a Streamo recipe")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold an object, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"{path} has unknown names {unknown}; known are {sorted(known)}")
        if "state_bias" in values:
            bias = values["state_bias"]
            values["state_bias"] = tuple(bias) if isinstance(bias, list) else (bias,)
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, model_dir: str | Path) -> None:
        path = Path(model_dir) / FILE_NAME
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
