"""A step that is interrupted anywhere is undone, and gives what it would have given when it is repeated."""

import random
import sys
from itertools import count
from pathlib import Path
from types import FrameType

import pytest
from engine_support import (
    INSTRUCTIONS,
    Outcome,
    assert_same,
    collect,
    forced,
    make_model,
    make_rounds,
    run_all,
)

import models.engine
from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.vlm.state import State

ENGINE_FILES = str(Path(models.engine.__file__).parent)


class Interrupter:
    """Raises KeyboardInterrupt at the n-th place in the engine's code where Python would: on entering a function,
    and after a call into C. The undoing itself is spared.
    """

    def __init__(self, place: int) -> None:
        self._left = place
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(ENGINE_FILES):
            return
        if frame.f_code.co_name == "take_back":
            sys.setprofile(None)
        self._left -= 1
        if self._left == 0:
            sys.setprofile(None)
            self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
            raise KeyboardInterrupt


# Python itself ignores an interrupt that comes while it closes a generator left over from the one before.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(5))
def test_a_step_can_be_interrupted_anywhere(seed: int) -> None:
    model = make_model()
    config = EngineConfig(
        max_sessions=3,
        max_kv_tokens=4096,
        max_batch_tokens=96,
        max_frame_tokens=10,
        window_rounds=3,
        max_window_tokens=240,
    )
    engine, sound = Engine(model, config), Engine(model, config)
    rng = random.Random(seed)
    rounds = make_rounds(model, seed, 8)
    states = [State(rng.randrange(3)) for _ in rounds]
    text = tuple(model.dialogue.reply(State.RESPONSE, "cars")[1:])
    past = [Outcome(state, (), text if state is State.RESPONSE else ()) for state in states]
    feeds = {f"s{i}": make_rounds(model, 10 * seed + i, 10) for i in range(3)}
    for name in feeds:
        for each in (engine, sound):
            each.open(name, INSTRUCTIONS[0], forced(rounds, past, model.dialogue) if name == "s2" else ())
    expected = run_all(sound, feeds)

    found: dict[str, dict[int, Outcome]] = {name: {} for name in feeds}
    waiting = {name: list(one) for name, one in feeds.items()}
    places = set()
    while any(waiting.values()) or engine.has_work:
        for name, left in waiting.items():
            while left and engine.can_append(name):
                engine.append(name, left.pop(0))
        before = {name: engine.window(name) for name in feeds}
        outputs = None
        for place in count(rng.randrange(1, 150), 150):  # later and later, until the step gets through
            interrupter = Interrupter(place)
            sys.setprofile(interrupter)
            try:
                outputs = engine.step()
            except KeyboardInterrupt:
                places.add(interrupter.where)
            finally:
                sys.setprofile(None)
            if outputs is not None:
                break
            engine.check_integrity()
            for name, window in before.items():  # rounds may have left to make room, nothing else
                kept = engine.window(name).replies
                assert kept == window.replies[len(window.replies) - len(kept) :]
        collect(outputs, found)
        engine.check_integrity()
    for name in feeds:
        assert_same([found[name][i] for i in sorted(found[name])], expected[name])
        assert engine.window(name) == sound.window(name)
    assert len(places) > 60
