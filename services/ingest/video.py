"""An opened source: decoded pictures, one after the other, as PyAV gives them."""

import time
from collections.abc import Callable, Iterator

import av
from av.container import InputContainer

from services.ingest.source import Source, SourceKind
from services.ingest.source_failure import SourceFailure, lost_connection, opening_failure
from streamo.v1 import frame_pb2

# FFmpeg's probing waits for seconds of video by default; a camera says all we need in its first frames.
# `nobuffer` is left out on purpose: it throws away what was read while probing, and with it the first key
# frame.
_QUICK_PROBE = {"analyzeduration": "100000", "probesize": "65536"}
_VIDEO_ONLY = {"allowed_media_types": "video"}
_FILE_FORMATS = (
    *("mpegts", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm"),
    *("avi", "flv", "mpeg", "mpegvideo", "h264", "hevc", "m4v", "ogg", "asf", "mjpeg", "mpjpeg", "ivf"),
)
# They name other places to read from: a file that did so could lead to one that ingest may not read.
_LEADING_FORMATS = ("rtsp", "sdp", "rtp", "hls")
_CODECS = frozenset(
    ("h264", "hevc", "mjpeg", "mpeg4", "mpeg2video", "mpeg1video", "vp8", "vp9", "av1", "libdav1d", "theora")
)
_MAX_PIXELS = 64 * 1024 * 1024
# After lost data pictures are passed over until one that stands alone; a source that never sends one is
# taken as it is after this time.
_KEY_PATIENCE_S = 5.0


class Video:
    """One opened source. `is_finite`: it has an end and a time line of its own, so it is a recording."""

    def __init__(self, source: Source, container: InputContainer, stall_timeout_s: float) -> None:
        self.source = source
        self.num_decoded = 0
        self._container = container
        self._stream = container.streams.video[0]
        self._stream.thread_count = 1  # threads over frames would hold frames back
        self._stream.codec_context.flags |= av.codec.context.Flags.low_delay
        self._stall_timeout_s = stall_timeout_s
        duration = container.duration
        self.is_finite = source.kind == SourceKind.FILE or (
            source.kind == SourceKind.HTTP and duration is not None and duration > 0
        )
        self.duration_s = duration / av.time_base if self.is_finite and duration is not None else None
        assert self._stream.time_base is not None  # every opened stream has one
        self._time_base = self._stream.time_base
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.period_ms = 1000 / float(rate) if rate else 40.0
        start = self._stream.start_time
        self.start_s: float | None = None if start is None else float(start * self._time_base)

    @classmethod
    def open(
        cls, source: Source, open_timeout_s: float, stall_timeout_s: float, alive: Callable[[], None]
    ) -> "Video":
        """`alive` is called before each try. Raises SourceFailure."""
        tries = [_QUICK_PROBE | _VIDEO_ONLY, _VIDEO_ONLY, {}] if source.kind == SourceKind.RTSP else [{}]
        for options in tries:
            alive()
            began_s = time.monotonic()
            last = options is tries[-1]
            try:
                container = _open(source, options, open_timeout_s, stall_timeout_s)
            except av.error.HTTPOtherClientError as error:
                # Leaving out the audio of a camera that has nothing else makes it refuse to play: see what it
                # has.
                if not last:
                    continue
                raise opening_failure(error, source, time.monotonic() - began_s, stall_timeout_s) from None
            except (av.error.FFmpegError, OSError) as error:
                timeout_s = min(open_timeout_s, stall_timeout_s)
                raise opening_failure(error, source, time.monotonic() - began_s, timeout_s) from None
            streams = container.streams.video
            if (
                streams
                and streams[0].codec_context is not None
                and streams[0].width == 0
                and not last
                and time.monotonic() - began_s < stall_timeout_s * 0.95
            ):
                container.close()  # the short probe has not seen the picture's size
                continue
            try:
                _check(container)
            except SourceFailure:
                container.close()
                raise
            return cls(source, container, stall_timeout_s)
        raise AssertionError("the last try returns or raises")

    def seek(self, media_time_ms: int) -> None:
        """To the last key frame at or before this time since the start. Stays put where it cannot seek."""
        if self.start_s is None or not self.is_finite:
            return
        try:
            self._container.seek(
                int((self.start_s + media_time_ms / 1000) / self._time_base), stream=self._stream
            )
        except av.error.FFmpegError:
            pass  # decoding from the start gets there too

    def pictures(self) -> Iterator[av.VideoFrame]:
        """Whole pictures only.

        The end of a live source, as any error, is a SourceFailure; that of a recording ends it.
        """
        opened_s = last_s = time.monotonic()
        damaged_since_s: float | None = None
        packets = self._container.demux(self._stream)
        while True:
            last_s = time.monotonic()
            try:
                packet = next(packets)
            except (StopIteration, IndexError):
                break  # PyAV's own IndexError: at the end, where streams have shown up since the opening
            except (av.error.FFmpegError, OSError) as error:
                if self.source.kind == SourceKind.FILE:
                    break  # damaged from here on: what could be read was read
                raise lost_connection(
                    error,
                    self.source,
                    time.monotonic() - last_s,
                    self._stall_timeout_s,
                    "the source sent nothing",
                ) from None
            now_s = time.monotonic()
            try:
                frames = packet.decode()
            except av.error.FFmpegError:  # damage has many names: invalid, not implemented, out of range
                frames = []
                damaged_since_s = damaged_since_s or now_s
            for frame in frames:
                self.num_decoded += 1
                if frame.is_corrupt:
                    damaged_since_s = damaged_since_s or now_s
                elif damaged_since_s is not None and (
                    frame.key_frame or now_s - damaged_since_s > _KEY_PATIENCE_S
                ):
                    damaged_since_s = None
                if damaged_since_s is None:
                    yield frame
            if self.num_decoded == 0 and not self.is_finite and now_s - opened_s > self._stall_timeout_s:
                raise SourceFailure(
                    frame_pb2.SOURCE_STATE_UNSUPPORTED, "the source sends video that cannot be decoded"
                )
        if not self.is_finite:
            raise SourceFailure(frame_pb2.SOURCE_STATE_DISCONNECTED, "the source closed the connection")

    def pts_s(self, frame: av.VideoFrame) -> float | None:
        return None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)

    def close(self) -> None:
        self._container.close()


def _open(
    source: Source, options: dict[str, str], open_timeout_s: float, stall_timeout_s: float
) -> InputContainer:
    formats = _FILE_FORMATS if source.kind == SourceKind.FILE else _FILE_FORMATS + _LEADING_FORMATS
    options = {
        **options,
        "protocol_whitelist": source.protocols,
        "format_whitelist": ",".join(formats),
    }
    if source.kind != SourceKind.FILE:
        options["timeout"] = str(int(stall_timeout_s * 1e6))
    if source.kind == SourceKind.RTSP:
        options["rtsp_transport"] = "tcp"
    # The timeout of reading is FFmpeg's own (above): PyAV's is a callback that takes the interpreter's lock
    # each time.
    return av.open(
        source.address,
        options=options,
        metadata_errors="replace",  # titles may be in any encoding, and are not looked at
        timeout=(open_timeout_s, None),
    )


def _check(container: InputContainer) -> None:
    if not container.streams.video:
        raise SourceFailure(frame_pb2.SOURCE_STATE_UNSUPPORTED, "the source has no video")
    stream = container.streams.video[0]
    if stream.codec_context is None:  # whatever PyAV's types say
        raise SourceFailure(frame_pb2.SOURCE_STATE_UNSUPPORTED, "the video codec is not known")
    codec = stream.codec_context.name
    if codec not in _CODECS:
        raise SourceFailure(frame_pb2.SOURCE_STATE_UNSUPPORTED, f"the video codec {codec} is not supported")
    if stream.width * stream.height > _MAX_PIXELS:
        raise SourceFailure(
            frame_pb2.SOURCE_STATE_UNSUPPORTED, f"pictures of {stream.width}x{stream.height} px are too large"
        )
