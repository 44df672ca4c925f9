"""The ways in which a simulated camera can be made to fail, as real ones do."""

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    NONE = "none"
    REFUSE = "refuse"  # closes the connection at the first request
    UNAUTHORIZED = "unauthorized"  # 401 whatever the credentials
    NOT_FOUND = "not_found"  # 404
    MUTE = "mute"  # takes requests, never answers
    NO_PLAY = "no_play"  # DESCRIBE and SETUP work, PLAY is 453
    AUDIO_ONLY = "audio_only"  # describes no video
    STALL = "stall"  # keeps the connection, sends nothing more
    CLOSE = "close"  # closes the connection
    CORRUPT = "corrupt"  # flips bits in some packets and loses others, one in eight together
    RESIZE = "resize"  # goes on at half the width and height


@dataclass(frozen=True)
class Fault:
    """`after_frames`: pictures that each viewer gets first; for stall, close, corrupt and resize."""

    kind: FaultKind = FaultKind.NONE
    after_frames: int = 0

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """KIND or KIND:AFTER_FRAMES. Raises ValueError."""
        name, _, after = text.partition(":")
        if name not in list(FaultKind):
            raise ValueError(f"fault {name!r}: must be one of {', '.join(FaultKind)}")
        if after and not after.isdigit():
            raise ValueError(f"fault {text!r}: after the colon comes a number of frames")
        return cls(FaultKind(name), int(after or 0))

    def hits(self, kind: FaultKind, num_frames: int = 0) -> bool:
        """Whether it is of this kind and a viewer that has had `num_frames` pictures meets it."""
        return self.kind == kind and num_frames >= self.after_frames
