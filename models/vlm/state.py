"""The three things the model can decide after a frame. Importable without torch."""

from enum import IntEnum


class State(IntEnum):
    """The decision of one round; the values index logits, recorded states and labels."""

    SILENCE = 0
    """Nothing relevant."""
    STANDBY = 1
    """Something relevant is under way and not finished."""
    RESPONSE = 2
    """Speak now; text follows."""
