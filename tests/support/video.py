"""Video files made on the spot."""

from pathlib import Path

import av

from models.data.place.director import EndlessPlace
from models.data.place.picture import render


def write_video(
    path: Path, seconds: float, fps: int = 10, seed: int = 5, size: tuple[int, int] = (448, 560)
) -> Path:
    """The first seconds of a simulated place as H.264; `size` is (height, width)."""
    height, width = size
    place = EndlessPlace(seed, "test")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(int(seconds * fps)):
            time_ms = index * 1000 // fps
            picture = render(place.segment(time_ms // place.segment_ms), time_ms, height, width)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path
