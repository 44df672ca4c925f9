"""What an engine has done and what it holds, for operators and benchmarks. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was made; the last four are as of now."""

    steps: int = 0
    """Forwards that succeeded."""
    rounds: int = 0
    """Decided, or appended with a forced reply; not those handed over at open."""
    disagreements: int = 0
    """Of these, where the best of all tokens was not the best state token."""
    evicted_rounds: int = 0
    extend_tokens: int = 0
    """Fed for rounds that were appended, and for pinned prefixes."""
    decode_tokens: int = 0
    """Fed one a step, to get the next of a reply."""
    replay_tokens: int = 0
    """Fed for past rounds, the pinned prefix before them included."""
    sessions: int = 0
    pinned_prefixes: int = 0
    free_blocks: int = 0
    held_blocks: int = 0

    def plus(self, **counts: int) -> EngineStats:
        """The same with these counts raised."""
        return replace(self, **{name: getattr(self, name) + count for name, count in counts.items()})
