"""What a run began with. It decides what each step sees, so a resumed run has to have the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from models.training.recipes import FineTuneRecipe, ScratchRecipe

_FILE = "run.json"
# These may change on the way: no step sees anything else for them.
_FREE = ("save_every_steps", "log_every_steps", "eval_every_steps", "num_validation_samples")


@dataclass(frozen=True)
class RunRecord:
    """`values`: the recipe's, by name, and what else decides what a step sees."""

    values: dict[str, Any]

    @classmethod
    def of(cls, recipe: FineTuneRecipe | ScratchRecipe, further: Mapping[str, Any]) -> RunRecord:
        """`further`: JSON; of a file its hash."""
        values = {name: value for name, value in asdict(recipe).items() if name not in _FREE}
        return cls(json.loads(json.dumps({**values, **further})))

    def write(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / _FILE).write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")

    def check(self, run_dir: Path) -> None:
        """ValueError that names what differs from what the run began with."""
        path = run_dir / _FILE
        if not path.exists():
            raise ValueError(f"{path} is missing: what the run began with is not known; begin a new one")
        begun = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in {**begun, **self.values} if begun.get(name) != self.values.get(name)]
        if differing:
            told = "; ".join(
                f"{name} was {begun.get(name)}, is {self.values.get(name)}" for name in differing
            )
            raise ValueError(
                f"{run_dir} began with other data or settings ({told}); give it the same, or begin a new run"
            )


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{file_digest(file, 'sha256').hexdigest()}"
