"""A small random model, random rounds, and ways to run them through an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from engine_families import FAMILIES
from tokenizers import Tokenizer

from models.engine.engine import Engine
from models.engine.round import Decision, Reply, RoundInput
from models.training.tokenizer import train_tokenizer
from models.vlm.dialogue import Dialogue
from models.vlm.model import LanguageModel
from models.vlm.state import State
from models.vlm.streamo_config import StreamoConfig

TOLERANCE = 1e-4
INSTRUCTIONS = ("Tell me when a person arrives.", "Report deliveries.", "How many cars?")
GRIDS = ((1, 1), (1, 3), (2, 2), (3, 2), (2, 5))


@cache
def tokenizer() -> Tokenizer:
    texts = ["system user assistant", *INSTRUCTIONS, "<12s-13.5s>\n"]
    return train_tokenizer(texts * 3, vocab_size=300)


@cache
def make_model(
    family_name: str = "qwen2_5_vl",
    *,
    seed: int | None = None,
    window_rounds: int = 64,
    max_reply_tokens: int = 5,
    hidden_size: int = 64,
    num_layers: int = 2,
    intermediate_size: int = 96,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    mrope_section: tuple[int, int, int] | None = None,
) -> LanguageModel:
    """Weights are large, so that decisions hang on every token and a mistake shows."""
    vocab_size = tokenizer().get_vocab_size()
    family = FAMILIES[family_name]
    config = family.config_class(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=32_768,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": list(mrope_section or family.mrope_section),
        },
        initializer_range=1.6 / hidden_size**0.5,
        use_cache=True,  # as in real checkpoints: the engine must ask for none itself
        bos_token_id=None,
        eos_token_id=None,
        **family.extra_sizes(hidden_size // num_heads),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(family.seed if seed is None else seed)
        text = family.served_class._from_config(config, attn_implementation="sdpa").float()
        lm_head = torch.randn(vocab_size, hidden_size) * 2.0 / hidden_size**0.5
    streamo = StreamoConfig(window_rounds, max_reply_tokens, system_prompt="Watch.")
    dialogue = Dialogue(tokenizer(), streamo.system_prompt)
    lm_head[dialogue.end_token_id] *= 3.0  # so that some replies end and some are cut
    cpu = torch.device("cpu")
    return LanguageModel(text, lm_head, dialogue, streamo, torch.float32, cpu, family.num_deepstack)


def make_rounds(
    model: LanguageModel, seed: int, num_rounds: int, grids: Sequence[tuple[int, int]] = GRIDS
) -> list[RoundInput]:
    rng = np.random.default_rng(seed)
    rounds, time_ms = [], 1000 * int(rng.integers(0, 120))
    for _ in range(num_rounds):
        rows, cols = grids[rng.integers(len(grids))]
        end_ms = time_ms + 100 * int(rng.integers(1, 30))
        frame = torch.from_numpy(rng.standard_normal((rows * cols, model.visual_size), dtype=np.float32))
        rounds.append(RoundInput(time_ms, end_ms, frame, (rows, cols)))
        time_ms = end_ms
    return rounds


@dataclass
class Outcome:
    """What was decided in one round."""

    state: State
    state_logits: tuple[float, ...]
    text_ids: tuple[int, ...] = ()
    truncated: bool = False

    def reply(self, dialogue: Dialogue) -> tuple[int, ...]:
        return (dialogue.state_token_ids[self.state], *self.text_ids)


def forced(rounds: Sequence[RoundInput], outcomes: Sequence[Outcome], dialogue: Dialogue) -> list[RoundInput]:
    return [replace(r, forced_reply=o.reply(dialogue)) for r, o in zip(rounds, outcomes, strict=True)]


def collect(
    outputs: Sequence[Decision | Reply], into: dict[str, dict[int, Outcome]]
) -> dict[str, dict[int, Outcome]]:
    """Add a step's outputs to what is known, by session and round."""
    for output in outputs:
        rounds = into.setdefault(output.session_id, {})
        if isinstance(output, Decision):
            assert output.round_index not in rounds, "decided twice"
            rounds[output.round_index] = Outcome(output.state, output.state_logits)
        else:
            outcome = rounds[output.round_index]
            assert outcome.state is State.RESPONSE
            outcome.text_ids, outcome.truncated = output.token_ids, output.truncated
    return into


def run_all(
    engine: Engine, feeds: dict[str, Sequence[RoundInput]], check_integrity: bool = True
) -> dict[str, list[Outcome]]:
    """Append every round of every session as soon as its queue takes it, and step until all is done."""
    outcomes: dict[str, dict[int, Outcome]] = {session_id: {} for session_id in feeds}
    waiting = {session_id: list(rounds) for session_id, rounds in feeds.items()}
    while any(waiting.values()) or engine.has_work:
        for session_id, rounds in waiting.items():
            while rounds and engine.can_append(session_id):
                engine.append(session_id, rounds.pop(0))
        collect(engine.step(), outcomes)
        if check_integrity:
            engine.check_integrity()
    return {session_id: [found[i] for i in sorted(found)] for session_id, found in outcomes.items()}


@dataclass(frozen=True)
class Plan:
    """A session that opens before the `opens_at`-th step."""

    instruction: str
    past: Sequence[RoundInput]
    live: Sequence[RoundInput]
    opens_at: int = 0
    stream_id: str = ""
    sensitivity: float = 0.0
    first_position: int = 0


def run_plans(
    engine: Engine, plans: dict[str, Plan], check_integrity: bool = True
) -> dict[str, list[Outcome]]:
    outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in plans}
    waiting: dict[str, list[RoundInput]] = {}
    step = 0
    while len(waiting) < len(plans) or any(waiting.values()) or engine.has_work:
        for name, plan in plans.items():
            if plan.opens_at == step:
                engine.open(
                    name,
                    plan.instruction,
                    plan.past,
                    stream_id=plan.stream_id,
                    sensitivity=plan.sensitivity,
                    first_position=plan.first_position,
                )
                waiting[name] = list(plan.live)
        for name, rounds in waiting.items():
            while rounds and engine.can_append(name):
                engine.append(name, rounds.pop(0))
        collect(engine.step(), outcomes)
        if check_integrity:
            engine.check_integrity()
        step += 1
    return {name: [found[i] for i in sorted(found)] for name, found in outcomes.items()}


def assert_same(actual: Sequence[Outcome], expected: Sequence[Outcome], tolerance: float = TOLERANCE) -> None:
    assert len(actual) == len(expected)
    for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        np.testing.assert_allclose(
            ours.state_logits, theirs.state_logits, atol=tolerance, rtol=0, err_msg=f"round {index}"
        )
        assert (ours.state, ours.text_ids, ours.truncated) == (
            theirs.state,
            theirs.text_ids,
            theirs.truncated,
        ), f"round {index}"
