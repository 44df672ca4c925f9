"""Dynamic frame sampling: few frames while nothing happens, more while something moves.

Used by ingest on camera pictures and by the simulator for training samples, so that the model is trained on
the rhythm it is served with. Pure and deterministic: no clock, numpy only.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SamplerConfig:
    """How often frames are kept.

    min_fps: a frame is kept at least this often, whatever the picture.
    max_fps: never more often than this.
    change_threshold: mean difference (0..255, of one block in one colour channel) that counts as a change.
    grid_rows, grid_cols: blocks the picture is averaged over. A block must be large enough that sensor and
        codec noise average out, and small enough that one moving thing fills a good part of it.
    """

    min_fps: float = 1.0
    max_fps: float = 2.0
    change_threshold: float = 14.0
    grid_rows: int = 12
    grid_cols: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.min_fps <= self.max_fps:
            raise ValueError(
                f"min_fps {self.min_fps} and max_fps {self.max_fps}: need 0 < min_fps <= max_fps"
            )
        if not 0 < self.change_threshold < 255:
            raise ValueError(f"change_threshold {self.change_threshold}: must lie between 0 and 255")
        if self.grid_rows < 1 or self.grid_cols < 1:
            raise ValueError(f"grid_rows {self.grid_rows}, grid_cols {self.grid_cols}: must be at least 1")

    @property
    def min_interval_ms(self) -> float:
        return 1000.0 / self.max_fps

    @property
    def max_interval_ms(self) -> float:
        return 1000.0 / self.min_fps


class FrameSampler:
    """Decides frame by frame which pictures of one epoch are kept. Not thread-safe; one per epoch."""

    def __init__(self, config: SamplerConfig | None = None) -> None:
        self.config = config or SamplerConfig()
        self._last_seen_ms: int | None = None
        self._kept_ms: int | None = None
        self._kept_blocks: np.ndarray | None = None
        self._size: tuple[int, ...] | None = None

    def due(self, media_time_ms: int) -> bool:
        """False if `keep` would say no whatever the picture: the caller may skip decoding or resizing it."""
        return self._kept_ms is None or media_time_ms - self._kept_ms >= self.config.min_interval_ms

    def keep(self, media_time_ms: int, picture: np.ndarray) -> bool:
        """Whether to keep this picture [H, W, 3] uint8; a kept one becomes the reference for later ones.

        The reference is the last *kept* picture, so slow change adds up until it is seen. The measure is the
        largest difference of any block, so a small moving thing is not averaged away by a still scene.
        Media time must rise from call to call and all pictures of an epoch have one size, else ValueError.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"picture: need uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
        if self._last_seen_ms is not None and media_time_ms <= self._last_seen_ms:
            raise ValueError(
                f"media_time_ms {media_time_ms} does not rise above {self._last_seen_ms}; "
                "use a new FrameSampler for a new epoch"
            )
        if self._size not in (None, picture.shape):
            raise ValueError("picture: its size changed within an epoch; use a new FrameSampler")
        self._size = picture.shape
        self._last_seen_ms = media_time_ms
        if not self.due(media_time_ms):
            return False
        blocks = self._block_means(picture)
        if self._kept_ms is not None and self._kept_blocks is not None:
            floor_reached = media_time_ms - self._kept_ms >= self.config.max_interval_ms
            change = float(np.abs(blocks - self._kept_blocks).max())
            if not floor_reached and change < self.config.change_threshold:
                return False
        self._kept_ms = media_time_ms
        self._kept_blocks = blocks
        return True

    def _block_means(self, picture: np.ndarray) -> np.ndarray:
        """[rows, cols, 3] float32; edges that do not fill a block belong to the last one."""
        height, width = picture.shape[:2]
        rows, cols = min(self.config.grid_rows, height), min(self.config.grid_cols, width)
        if height % rows == 0 and width % cols == 0:
            cells = picture.reshape(rows, height // rows, cols * (width // cols) * 3)
            sums = cells.sum(axis=1, dtype=np.uint32).reshape(rows, cols, width // cols, 3).sum(axis=2)
            exact: np.ndarray = sums.astype(np.float32) / np.float32((height // rows) * (width // cols))
            return exact
        row_edges = np.arange(rows) * height // rows
        col_edges = np.arange(cols) * width // cols
        sums = np.add.reduceat(picture, row_edges, axis=0, dtype=np.uint32)
        sums = np.add.reduceat(sums, col_edges, axis=1)
        heights = np.diff(np.append(row_edges, height))
        widths = np.diff(np.append(col_edges, width))
        areas = heights[:, None] * widths[None, :]
        means: np.ndarray = sums.astype(np.float32) / areas[..., None].astype(np.float32)
        return means
