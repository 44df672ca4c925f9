"""What a simulated camera looks at: a place, or a video file that starts again when it is over."""

from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from models.data.place.director import EndlessPlace
from models.data.place.picture import render

# A jump ahead longer than this is a seek instead of decoding all that lies between.
_SEEK_MS = 2_000


class PictureSource(Protocol):
    """Asked with times that rise; one thread at a time."""

    def picture(self, time_ms: int, height: int, width: int) -> np.ndarray:
        """The picture at this time since the start: uint8 [height, width, 3]."""
        ...


class PlaceSource:
    """The endless simulated place of one seed; its script is the truth about what is to be seen."""

    def __init__(self, seed: int, split: str = "demo") -> None:
        self.seed = seed
        self.split = split
        self._place = EndlessPlace(seed, split)

    @property
    def segment_ms(self) -> int:
        return self._place.segment_ms

    def picture(self, time_ms: int, height: int, width: int) -> np.ndarray:
        return render(self._place.segment(time_ms // self._place.segment_ms), time_ms, height, width)

    def script_json(self, until_ms: int) -> str:
        """Layout, look, and everything that happens from time 0 to `until_ms` and on to the end of that segment."""
        # A place of its own: asking for a script moves where the place stands, and the camera's thread is drawing.
        return EndlessPlace(self.seed, self.split).script(until_ms).to_json()


class FileSource:
    """A video file, over and over. Raises OSError or ValueError where it holds no video."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reformatter = VideoReformatter()
        self._loop_start_ms = 0
        self._frame_ms = 0
        self._container: av.container.InputContainer | None = None
        self._open()

    def picture(self, time_ms: int, height: int, width: int) -> np.ndarray:
        if time_ms - self._loop_start_ms - self._frame_ms > _SEEK_MS:
            self._skip_to(time_ms)
        while self._loop_start_ms + self._frame_ms < time_ms:
            frame = next(self._frames, None)
            if frame is None:
                # The next round begins one frame after the last picture.
                self._loop_start_ms += self._frame_ms + self._frame_period_ms
                self._open()
            else:
                self._frame = frame
                self._frame_ms = self._time_ms(frame)
        picture = self._reformatter.reformat(
            self._frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC
        )
        return picture.to_ndarray()

    def _open(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = av.open(str(self.path))
        if not self._container.streams.video:
            raise ValueError(f"{self.path} holds no video")
        self._stream = self._container.streams.video[0]
        self._frame_period_ms = round(1000 / float(self._stream.average_rate or 25))
        self._frames = self._container.decode(self._stream)
        first = next(self._frames, None)
        if first is None:
            raise ValueError(f"{self.path} holds no picture that can be decoded")
        self._first_pts = first.pts or 0
        self._frame, self._frame_ms = first, 0

    def _skip_to(self, time_ms: int) -> None:
        """Nobody looked for a while: goes on at the right place of the right round, not through the rest."""
        duration_ms = int((self._stream.duration or 0) * self._stream.time_base * 1000)
        if duration_ms <= 0:
            self._loop_start_ms = time_ms
            return
        rounds = (time_ms - self._loop_start_ms) // duration_ms
        self._loop_start_ms += rounds * duration_ms
        self._open()
        target = self._first_pts + int((time_ms - self._loop_start_ms) / 1000 / self._stream.time_base)
        assert self._container is not None
        self._container.seek(target, stream=self._stream)
        self._frames = self._container.decode(self._stream)

    def _time_ms(self, frame: av.VideoFrame) -> int:
        if frame.pts is None:
            return self._frame_ms + self._frame_period_ms
        return int((frame.pts - self._first_pts) * self._stream.time_base * 1000)
