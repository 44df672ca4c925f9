"""A video file as the converter sees it: how many frames it has at a frame rate, and their pictures."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.data.finding import FieldError
from models.data.upright import upright_image

_JPEG_QUALITY = 95
# Beside the frames: which file they were made from.
_SOURCE_FILE = "source.json"


def find_video(name: str, file: Path, root: Path | None) -> Path:
    """Where the video is that a sample of `file` calls `name`: below `root`; without one as it stands, or else beside
    the file. It need not be there."""
    if root is not None:
        return root / name
    beside = file.parent / name
    return beside if beside.is_file() and not Path(name).is_file() else Path(name)


@dataclass(frozen=True)
class VideoFile:
    """`num_frames` is what the container says, or else what its duration comes to."""

    path: Path
    num_frames: int
    fps: float

    @classmethod
    def open(cls, path: Path) -> "VideoFile":
        """Reads the header alone. FieldError on `video_path` where that fails."""
        import av

        if not path.is_file():
            raise FieldError("video_path", "not found", str(path))
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise FieldError("video_path", "holds no video", str(path))
                stream = container.streams.video[0]
                rate = stream.average_rate or stream.guessed_rate
                if not rate:
                    raise FieldError("video_path", "does not tell its frame rate", str(path))
                fps = float(rate)
                if stream.frames:
                    num_frames = stream.frames
                elif stream.duration and stream.time_base:
                    num_frames = round(float(stream.duration * stream.time_base) * fps)
                else:
                    num_frames = round((container.duration or 0) / av.time_base * fps)
        except (av.FFmpegError, OSError) as error:
            raise FieldError("video_path", "cannot be opened as a video", f"{path}: {error}") from error
        return cls(path, num_frames, fps)

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps

    def step(self, fps: float) -> int:
        """Every how many-th frame is one of `fps` a second."""
        return max(1, int(self.fps / fps))

    def num_frames_at(self, fps: float) -> int:
        """Frames at `fps`, by the reference's rule: whole steps that fit into the video."""
        return self.num_frames // self.step(fps)

    def read_through(self) -> None:
        """Decode every frame. FieldError on `video_path` where that fails, or more than a second is missing."""
        import av

        num_decoded = 0
        try:
            with av.open(str(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for _ in container.decode(video=0):
                    num_decoded += 1
        except (av.FFmpegError, OSError) as error:
            raise FieldError("video_path", "cannot be decoded", f"{self.path}: {error}") from error
        if self.num_frames - num_decoded > self.fps:
            raise FieldError(
                "video_path", "breaks off", f"{num_decoded} of {self.num_frames} frames in {self.path}"
            )

    def frame_files(self, fps: float, folder: Path) -> tuple[list[Path], bool]:
        """A JPEG for each of `num_frames_at(fps)` frames, the first of every step, made in `folder` unless it is
        there; and whether the last stands for one more, because the video ends a frame early.

        The folder appears whole or not at all, and anew where the video was changed since. Frames that were put there
        by others are taken as they are. FieldError on `video_path` where more than one frame is missing, or the frames
        are another video's: they are not replaced, since samples may name them.
        """
        wanted = self.num_frames_at(fps)
        if not self._has_frames_in(folder):
            self._extract(fps, folder, wanted)
        files = sorted(folder.glob("frame_*.jpg"))
        if len(files) not in (wanted, wanted - 1) or not files:
            raise FieldError(
                "video_path", "its frames are not all there", f"{len(files)} of {wanted} in {folder}"
            )
        return files + files[-1:] * (wanted - len(files)), len(files) < wanted

    def _has_frames_in(self, folder: Path) -> bool:
        """Whether they are there, and of the video as it is now. FieldError for those of another one."""
        source = folder / _SOURCE_FILE
        if not source.is_file():
            return folder.is_dir()
        made_from, now = json.loads(source.read_text("utf-8")), self._source()
        is_same = all(made_from[name] == now[name] for name in ("bytes", "modified_ns"))
        if not is_same and made_from["path"] != now["path"]:
            reason = (
                "its folder of frames holds another video's: give another frames_dir, or delete the folder"
            )
            raise FieldError("video_path", reason, f"{folder} is of {made_from['path']}")
        return is_same

    def _source(self) -> dict[str, Any]:
        """What the video is told by: a file that was only moved is the same one."""
        stat = self.path.stat()
        return {"path": str(self.path.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}

    def _extract(self, fps: float, folder: Path, wanted: int) -> None:
        import av

        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        step, num_saved, source = self.step(fps), 0, self._source()
        try:
            with av.open(str(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for index, frame in enumerate(container.decode(video=0)):
                    if num_saved == wanted:
                        break
                    if index % step == 0:
                        picture = upright_image(frame)
                        picture.save(partial / f"frame_{num_saved:06d}.jpg", quality=_JPEG_QUALITY)
                        num_saved += 1
            if num_saved < max(1, wanted - 1):
                raise FieldError("video_path", "breaks off", f"{num_saved} of {wanted} frames in {self.path}")
            (partial / _SOURCE_FILE).write_text(json.dumps(source), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except av.FFmpegError as error:
            raise FieldError("video_path", "cannot be decoded", f"{self.path}: {error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def frames_folder(frames_dir: Path, video: str, fps: float) -> Path:
    """Where the frames of a video at `fps` lie: below `frames_dir`, under the path that the sample gives it."""
    path = Path(video)
    if path.is_absolute() or ".." in path.parts:
        # Elsewhere on this machine: its name alone might be another's too.
        path = Path(f"{path.name}-{hashlib.sha256(video.encode()).hexdigest()[:12]}")
    return frames_dir / path / f"fps_{fps:g}"
