"""From folders of videos to a data set: scan, cut, ask the teacher, believe what it finds again, split, write.

A run may be killed anywhere and started anew: what was scanned, cut or replied is kept by the hash of what it was made
from, and everything else is made again from that, the same way.
"""

import fcntl
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from models.data.curation.clip import (
    Clip,
    UnreadableVideo,
    VideoScan,
    cut_clip,
    file_sha256,
    prints_of,
    scan_video,
    segments,
)
from models.data.curation.clip_annotation import ClipAnnotation, ClipResult, foreign_captions
from models.data.curation.config import CurationConfig
from models.data.curation.manifest import write_data_set
from models.data.curation.near_duplicates import group_videos
from models.data.curation.split import SplitName, split_of
from models.data.curation.store import Ledger, Store
from models.data.curation.teacher import CurationStopped, Teacher

In = TypeVar("In")
Out = TypeVar("Out")

UNREADABLE_VIDEO = "cannot be decoded"
SAME_FILE = "the same file as another"
TOO_SHORT = "too short for a clip"


@dataclass(frozen=True)
class Progress:
    """One step of a stage is done."""

    stage: str
    num_done: int
    num_total: int


@dataclass(frozen=True)
class CurationOutcome:
    """manifest: None where nothing was written because something is undone. undone: reasons and how many of a clip's
    tasks; stopped: why the run was broken off, or ""."""

    manifest: dict[str, Any] | None
    undone: dict[str, int]
    stopped: str
    results: tuple[ClipResult, ...]


@dataclass(frozen=True)
class _Video:
    source: str
    name: str
    path: Path
    scan: VideoScan


class Curation:
    """One run over one output folder. A context manager: a second run on the same folder is refused."""

    def __init__(
        self,
        config: CurationConfig,
        make_teacher: Callable[[Store, Ledger], Teacher],
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.config = config
        self._make_teacher = make_teacher
        self._on_progress = on_progress
        self._cache = config.output / "cache"
        self._clips = config.output / "clips"
        self._lock: IO[str] | None = None

    def __enter__(self) -> "Curation":
        self.config.output.mkdir(parents=True, exist_ok=True)
        self._lock = (self.config.output / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(f"output {self.config.output}: another run is at work there") from None
        for folder in (self.config.output, self._clips):
            for left_by_a_kill in folder.glob(".*.partial*"):
                left_by_a_kill.unlink()
        self.ledger = Ledger(self.config.output / "paid.jsonl")
        self.teacher = self._make_teacher(Store(self._cache / "replies"), self.ledger)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ledger.close()
        if self._lock is not None:
            self._lock.close()

    def run(self, *, write_incomplete: bool = False) -> CurationOutcome:
        """All stages. ValueError where the sources hold no video. Where the teacher owes replies nothing is written,
        unless `write_incomplete`."""
        rejected: dict[str, str] = {}
        videos = self._scan(rejected)
        groups = self._groups(videos)
        clips, num_uncut = self._cut(videos, rejected)
        results, stopped = self._annotate(clips, write_incomplete)
        undone = Counter(reason for result in results for reason in result.undone.values())
        if undone and not write_incomplete:
            return CurationOutcome(None, dict(undone), stopped, tuple(results))
        group_of = {clip.key: groups[clip.video_sha256] for clip in clips}
        splits: dict[str, SplitName] = {
            key: split_of(group, self.config.seed, self.config.split) for key, group in group_of.items()
        }
        manifest = write_data_set(self.config, results, splits, group_of, rejected, num_uncut, self.ledger)
        return CurationOutcome(manifest, dict(undone), stopped, tuple(results))

    def _scan(self, rejected: dict[str, str]) -> list[_Video]:
        # The output may be below a source's root: a clip is no source, or every run would cut those of the last one.
        made_here = [folder.resolve() for folder in (self._clips, self._cache)]
        paths = [
            (source.name, path.relative_to(source.root).as_posix(), path)
            for source in self.config.sources
            for path in sorted(source.root.glob(source.pattern))
            if path.is_file() and not any(map(path.resolve().is_relative_to, made_here))
        ]
        if not paths:
            roots = ", ".join(f"{source.root}/{source.pattern}" for source in self.config.sources)
            raise ValueError(f"sources: no video matches {roots}")
        store = Store(self._cache / "scans")

        def scan(entry: tuple[str, str, Path]) -> _Video | None:
            source, name, path = entry
            try:
                return _Video(
                    source, name, path, scan_video(path, file_sha256(path, store), self.config.clips, store)
                )
            except (UnreadableVideo, OSError):
                return None

        videos: dict[str, _Video] = {}
        for (_, _, path), video in zip(paths, self._each("Looking at videos", scan, paths), strict=True):
            if video is None:
                rejected[str(path)] = UNREADABLE_VIDEO
            elif video.scan.sha256 in videos:
                rejected[str(path)] = SAME_FILE
            else:
                videos[video.scan.sha256] = video
        return list(videos.values())

    def _groups(self, videos: list[_Video]) -> dict[str, str]:
        """By the hash of a video, that of the first of its group."""
        ordered = sorted(videos, key=lambda video: video.scan.sha256)
        config = self.config.split
        firsts = group_videos(
            [prints_of(video.scan) for video in ordered], config.max_bits, config.min_shared
        )
        return {
            video.scan.sha256: ordered[first].scan.sha256
            for video, first in zip(ordered, firsts, strict=True)
        }

    def _cut(self, videos: list[_Video], rejected: dict[str, str]) -> tuple[list[Clip], int]:
        pieces: list[tuple[_Video, tuple[float, float]]] = []
        for video in videos:
            spans = segments(video.scan, self.config.clips)
            if not spans:
                rejected[str(video.path)] = TOO_SHORT
            pieces.extend((video, span) for span in spans)

        def cut(piece: tuple[_Video, tuple[float, float]]) -> Clip | None:
            video, span = piece
            try:
                return cut_clip(
                    video.path,
                    video.source,
                    video.name,
                    video.scan.sha256,
                    span,
                    self._clips,
                    self.config.clips,
                )
            except UnreadableVideo:
                return None

        cuts = list(self._each("Cutting clips", cut, pieces))
        clips = [clip for clip in cuts if clip is not None]
        return clips, len(cuts) - len(clips)

    def _annotate(self, clips: list[Clip], write_incomplete: bool) -> tuple[list[ClipResult], str]:
        stopped: list[str] = []

        def added(result: ClipResult, stage: str, work: Callable[[ClipAnnotation], None]) -> ClipResult:
            # A stopped teacher still knows what it replied before: enough for many a clip that is to be written.
            if not stopped or write_incomplete:
                try:
                    work(ClipAnnotation(result, self.teacher, self.config))
                    return result
                except CurationStopped as error:
                    stopped.append(str(error))
            result.undone[stage] = stopped[0]
            return result

        def annotate(clip: Clip) -> ClipResult:
            return added(ClipResult(clip), "tasks", ClipAnnotation.run)

        results = list(self._each("Asking the teacher", annotate, clips))
        num_negatives = self.config.negatives if "grounding" in self.config.tasks else 0
        if not num_negatives or (stopped and not write_incomplete):
            return results, stopped[0] if stopped else ""
        # Captions of every clip, taken before negatives are added to any.
        foreign = [foreign_captions(result, results, self.config.seed, num_negatives) for result in results]

        def refute(entry: tuple[ClipResult, list[str]]) -> ClipResult:
            result, captions = entry
            if not captions:
                return result
            return added(result, "negatives", lambda clip: clip.negatives(captions, num_negatives))

        results = list(
            self._each("Asking for what never happens", refute, list(zip(results, foreign, strict=True)))
        )
        return results, stopped[0] if stopped else ""

    def _each(self, stage: str, work: Callable[[In], Out], entries: list[In]) -> Iterator[Out]:
        """Results in order, several at a time, with few more begun than are being worked on."""
        num_workers = self.config.teacher.concurrency
        under_way: deque[Future[Out]] = deque()
        num_done = 0
        self._on_progress(Progress(stage, 0, len(entries)))
        with ThreadPoolExecutor(num_workers) as pool:
            try:
                for entry in entries:
                    under_way.append(pool.submit(work, entry))
                    if len(under_way) >= 2 * num_workers:
                        yield under_way.popleft().result()
                        num_done += 1
                        self._on_progress(Progress(stage, num_done, len(entries)))
                while under_way:
                    yield under_way.popleft().result()
                    num_done += 1
                    self._on_progress(Progress(stage, num_done, len(entries)))
            except BaseException:
                self.teacher.stop()
                for future in under_way:
                    future.cancel()
                raise
