"""The records of a stream that wait to be taken, and the embeddings that are made meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from services.llm.frame import Frame, Item
from services.llm.parts import Parts
from services.shared.telemetry import Spans

if TYPE_CHECKING:
    import torch

A = TypeVar("A")
B = TypeVar("B")

# The picture of a frame without one; PictureExpired where it is gone.
LoadPicture = Callable[[Frame], Future[np.ndarray]]

# Embeddings asked for ahead of the frame that is next; the encoder batches them.
_MAX_ENCODING = 4


@dataclass(eq=False)
class Queued:
    item: Item
    embedding: Future[torch.Tensor] | None = None
    ready_at_us: int = 0

    def cancel(self) -> None:
        if self.embedding is not None:
            self.embedding.cancel()


class RecordQueue:
    """In the order in which they are taken. Not thread-safe; never blocks."""

    def __init__(self, stream_id: str, parts: Parts, load_picture: LoadPicture) -> None:
        self._stream_id = stream_id
        self._parts = parts
        self._load_picture = load_picture
        self._queue: deque[Queued] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def head(self) -> Queued | None:
        return self._queue[0] if self._queue else None

    @property
    def frames(self) -> Iterator[Frame]:
        return (queued.item for queued in self._queue if isinstance(queued.item, Frame))

    @property
    def is_encoding(self) -> bool:
        return any(queued.embedding is not None for queued in self._queue)

    def append(self, item: Item) -> None:
        """However far behind a stream is, it holds few pictures and keeps no other stream's frames waiting."""
        if isinstance(item, Frame) and len(self._queue) >= self._parts.settings.max_pending_frames:
            item = item.without_picture()
        self._queue.append(Queued(item))

    def pop(self) -> Item:
        """The head; an embedding that nobody has begun to make is not made."""
        queued = self._queue.popleft()
        queued.cancel()
        return queued.item

    def replace_head(self, item: Item) -> None:
        self.pop()
        self._queue.appendleft(Queued(item))

    def clear(self) -> None:
        while self._queue:
            self.pop()

    def encode(self, queued: Queued, frame: Frame) -> Future[torch.Tensor]:
        """The embedding of the frame that is queued, asked for if it was not yet. ValueError in it: the encoder will
        not have the picture; PictureExpired: it is gone."""
        if queued.embedding is None:
            asked_at_us = self._parts.wall_us()
            queued.embedding = self._embedding(frame)

            def note(_: Future[torch.Tensor]) -> None:
                queued.ready_at_us = self._parts.wall_us()
                self._parts.telemetry.span(
                    Spans.ENCODE, asked_at_us, queued.ready_at_us, frame.context, stream_id=self._stream_id
                )

            queued.embedding.add_done_callback(note)
        return queued.embedding

    def encode_ahead(self, is_wanted: Callable[[Frame], bool]) -> None:
        """Asks for the embeddings of those of the next records that are wanted."""
        for queued in islice(self._queue, _MAX_ENCODING):
            if isinstance(queued.item, Frame) and is_wanted(queued.item):
                self.encode(queued, queued.item)

    def _embedding(self, frame: Frame) -> Future[torch.Tensor]:
        encode = self._parts.encoder.submit
        if frame.pixels.size:
            return encode(frame.pixels, frame.context)
        return _then(self._load_picture(frame), lambda pixels: encode(pixels, frame.context))


def _then(first: Future[A], then: Callable[[A], Future[B]]) -> Future[B]:
    """What `then` makes of the result of `first`, or the first error. Cannot be cancelled."""
    both: Future[B] = Future()
    both.set_running_or_notify_cancel()

    def end(second: Future[B]) -> None:
        if (error := second.exception()) is not None:
            both.set_exception(error)
        else:
            both.set_result(second.result())

    def go_on(done: Future[A]) -> None:
        if (error := done.exception()) is not None:
            both.set_exception(error)
            return
        then(done.result()).add_done_callback(end)

    first.add_done_callback(go_on)
    return both
