"""A Dockerfile as data: enough of the format for our own."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """One FROM and what follows: (keyword, text) in order, continued lines joined."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [text for one, text in self.instructions if one == keyword]

    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for text in self.all("ENV") for pair in text.split())

    def command(self, keyword: str) -> list[str]:
        """The last CMD or ENTRYPOINT, in exec form."""
        return list(json.loads(self.all(keyword)[-1]))


@dataclass
class Dockerfile:
    arguments: dict[str, str]  # ARG before the first FROM
    stages: list[Stage]

    @classmethod
    def read(cls, path: Path) -> "Dockerfile":
        text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M)
        text = re.sub(r"\\\n\s*", "", text)
        arguments: dict[str, str] = {}
        stages: list[Stage] = []
        for line in filter(None, text.splitlines()):
            keyword, rest = line.split(maxsplit=1)
            if keyword == "FROM":
                base, *named = rest.split(" AS ")
                stages.append(Stage(base, named[0] if named else ""))
            elif not stages:
                name, _, value = rest.partition("=")
                arguments[name] = value
            else:
                stages[-1].instructions.append((keyword, rest))
        return cls(arguments, stages)
