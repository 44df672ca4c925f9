"""The engine and the baselines as servers of many streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from models.engine.attention import AttentionBackend
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import Decision, RoundInput
from models.vlm.model import VisionEncoder
from models.vlm.state import State
from models.vlm.tower_graphs import BUCKETS
from tests.bench.arrivals import Decided
from tests.bench.hugging_face import Chat
from tests.bench.scripted import Script, ScriptedRunner
from tests.bench.window_copies import copying, open_full
from tests.bench.workload import Workload

MAX_PENDING_ROUNDS = 4
_FILLED = "filled"
LIMIT_MS = 300.0


class Frames:
    """Visual tokens of frames as they arrive: made by an encoder beside the model, or at hand already.

    The encoder has its pixels as patches: what a host makes of a frame is another process's work where this is served.
    """

    def __init__(self, workload: Workload, encoder: VisionEncoder | None = None) -> None:
        self._workload = workload
        self._encoder = encoder
        if encoder is not None:
            side = encoder.budget.unit
            rows, cols = workload.grid
            rng = np.random.default_rng(0)
            picture = rng.integers(0, 256, size=(rows * side, cols * side, 3), dtype=np.uint8)
            self._patches, self._grids = encoder.patches([picture])
            if encoder.device.type == "cuda":
                # No trial is to see the first pass of a size, in which it is recorded.
                for num_frames in BUCKETS:
                    self.tokens(num_frames)

    def tokens(self, num_frames: int) -> list[torch.Tensor]:
        if self._encoder is not None and num_frames:
            return self._encoder.encode_patches(self._patches.repeat(num_frames, 1), self._grids * num_frames)
        return [self._workload.frames[index % len(self._workload.frames)] for index in range(num_frames)]


class EngineServer:
    """One session more than streams stays as it was filled, and the streams' windows are copies of its own."""

    def __init__(
        self,
        workload: Workload,
        frames: Frames,
        script: Script,
        window_rounds: int,
        max_streams: int,
        max_batch_tokens: int,
        attention: AttentionBackend | None = None,
    ) -> None:
        self._workload = workload
        self._frames = frames
        self._window_rounds = window_rounds
        max_round_tokens = workload.round_tokens + script.reply_tokens + 16
        self.engine = Engine(
            workload.model,
            EngineConfig(
                max_sessions=max_streams + 1,
                max_kv_tokens=(max_streams + 1) * ((window_rounds + 1) * max_round_tokens + 64) + 1024,
                max_batch_tokens=max_batch_tokens,
                max_pending_rounds=MAX_PENDING_ROUNDS,
                max_reply_tokens=script.reply_tokens + 1,
                window_rounds=window_rounds,
                max_frame_tokens=len(workload.frames[0]),
            ),
            attention,
        )
        ScriptedRunner.direct(self.engine, script)
        self._next_round: list[int] = []

    def open(self, num_streams: int) -> None:
        """Have at least that many streams, their windows full."""
        past = [self._workload.quiet_round(index) for index in range(self._window_rounds)]
        engine, instruction = self.engine, self._workload.instruction
        if not self._next_round:
            open_full(engine, [_FILLED], instruction, past)
        with copying(engine, _FILLED):
            while len(self._next_round) < num_streams:
                open_full(engine, [str(len(self._next_round))], instruction, past)
                self._next_round.append(self._window_rounds)

    def offer(self, streams: Sequence[int], arrival_s: Sequence[float]) -> list[bool]:
        taken = [self.engine.can_append(str(stream)) for stream in streams]
        tokens = iter(self._frames.tokens(sum(taken)))
        for stream, is_taken, at_s in zip(streams, taken, arrival_s, strict=True):
            if is_taken:
                deadline_ms = 1e3 * at_s + LIMIT_MS
                one = _live_round(self._workload, self._next_round[stream], next(tokens))
                self.engine.append(str(stream), replace(one, deadline_ms=deadline_ms))
            self._next_round[stream] += 1
        return taken

    @property
    def has_work(self) -> bool:
        return self.engine.has_work

    def step(self) -> list[Decided]:
        return [
            Decided(int(output.session_id)) for output in self.engine.step() if isinstance(output, Decision)
        ]


class BaselineServer:
    """Dialogues kept with Hugging Face alone, one after the other in order of arrival.

    `make_chat` gives the chat of a stream, its window full.
    """

    def __init__(
        self,
        workload: Workload,
        frames: Frames,
        script: Script,
        window_rounds: int,
        make_chat: Callable[[int], Chat],
    ) -> None:
        self._workload = workload
        self._frames = frames
        self._script = script
        self._window_rounds = window_rounds
        self._make_chat = make_chat
        self._chats: list[Chat] = []
        self._next_round: list[int] = []
        self._waiting: deque[tuple[int, RoundInput, int]] = deque()
        self._num_waiting: list[int] = []
        # The reply under way: its chat, what it has said, and how much is still to be said.
        self._replying: tuple[Chat, list[int], int] | None = None

    def open(self, num_streams: int) -> None:
        """Have at least that many streams, their windows full."""
        while len(self._chats) < num_streams:
            self._chats.append(self._make_chat(len(self._chats)))
            self._next_round.append(self._window_rounds)
            self._num_waiting.append(0)

    def offer(self, streams: Sequence[int], arrival_s: Sequence[float]) -> list[bool]:
        taken = [self._num_waiting[stream] < MAX_PENDING_ROUNDS for stream in streams]
        tokens = iter(self._frames.tokens(sum(taken)))
        for stream, is_taken in zip(streams, taken, strict=True):
            index = self._next_round[stream]
            self._next_round[stream] += 1
            if is_taken:
                self._waiting.append((stream, _live_round(self._workload, index, next(tokens)), index))
                self._num_waiting[stream] += 1
        return taken

    @property
    def has_work(self) -> bool:
        return bool(self._waiting) or self._replying is not None

    def step(self) -> list[Decided]:
        """One forward: the next token of the reply under way, or the next round's state."""
        dialogue = self._workload.model.dialogue
        if self._replying is not None:
            chat, reply, left = self._replying
            chat.say(reply[-1]).argmax().item()
            if left:
                reply.append(dialogue.reply(State.RESPONSE, "car")[1])
                self._replying = (chat, reply, left - 1)
            else:
                chat.end_round(reply)
                self._replying = None
            return []
        stream, one, index = self._waiting.popleft()
        self._num_waiting[stream] -= 1
        chat = self._chats[stream]
        chat.decide(one).argmax().item()
        if self._script.responds(stream, index):
            self._replying = (chat, list(dialogue.reply(State.RESPONSE)), self._script.reply_tokens)
        else:
            chat.end_round(dialogue.reply(State.SILENCE))
        return [Decided(stream)]


def _live_round(workload: Workload, index: int, tokens: torch.Tensor) -> RoundInput:
    return replace(workload.quiet_round(index), frame=tokens, forced_reply=None)
