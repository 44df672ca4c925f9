"""The engine's report: what was measured, what it came to, and which goals were missed."""

from __future__ import annotations

import textwrap

from tests.bench.engine_plots import NAMES
from tests.bench.results import Results
from tests.bench.stopwatch import Spread, number
from tests.bench.window_price import Interval

GOAL_WINDOW = 120
SIDES = ("engine", "resend", "evict_half", "evict_quarter", "cropped")


def write(results: Results) -> str:
    """The whole of engine.md."""
    parts = (
        _head(results),
        _goals(results),
        _cost(results),
        _flat(results),
        _limit(results),
        _load(results),
        _price(results),
        _rebuild(results),
    )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _head(results: Results) -> str:
    at = results.environment
    conditions = _prose(f"""
        Checkpoint `streamo-tiny`, float32, one torch thread, {at.num_cores} cores of {at.cpu}; torch {at.torch},
        transformers {at.transformers}, Python {at.python}, commit `{at.commit}`. The run took
        {results.duration_s / 60:.1f} minutes. Frames are encoded beforehand. A quiet round has {results.round_tokens}
        tokens, {results.pinned_tokens} are pinned. Where nothing else is said times are CPU time of the one thread
        that works, so that other processes hardly show; medians of interleaved repeats, in brackets the least and
        the greatest. Nothing here was run on a GPU.
    """)
    if results.cpu_share < 0.9:
        conditions += "\n\n" + _prose(f"""
            **The machine was busy**: while rounds were timed, this process had {results.cpu_share:.0%} of a core.
            Caches and memory are shared, so that times are longer than on a quiet machine, and the number of streams
            lower.
        """)
    return f"""# The engine, measured

    make bench-engine

Written by that command: do not edit. The numbers are in [engine.json](engine.json).

{conditions}"""


def _goals(results: Results) -> str:
    cost = results.window(GOAL_WINDOW)
    engine, resend = cost.alone("engine"), cost.alone("resend")
    best_ratio = cost.best("resend").mean_s.median / cost.best("engine").mean_s.median
    rows = [
        _goal(
            f"window of {cost.window_rounds}: round against (i), each at its best batch size",
            "≥ 40 times cheaper",
            f"{best_ratio:.1f} times ({resend.mean_s.median / engine.mean_s.median:.1f} for one session)",
            best_ratio >= 40,
        )
    ]
    for side in ("evict_half", "evict_quarter"):
        other = cost.alone(side)
        worst = other.worst_s.median / engine.worst_s.median
        worst_batched = cost.best(side).worst_s.median / cost.best("engine").worst_s.median
        mean = cost.best(side).mean_s.median / cost.best("engine").mean_s.median
        alone = other.mean_s.median / engine.mean_s.median
        name = "D = W/2" if side == "evict_half" else "D = W/4"
        rows += [
            _goal(
                f"worst round against (ii), {name}, each at its best batch size",
                "≥ 20 times lower",
                f"{worst_batched:.1f} times ({worst:.1f} for one session)",
                worst_batched >= 20,
            ),
            _goal(
                f"mean round against (ii), {name}",
                "no worse",
                f"{mean:.2f} times cheaper ({alone:.2f} for one session)",
                mean >= 1 and alone >= 1,
            ),
        ]
    worst_age = results.aging.worst_ratio
    last = results.aging.samples[-1].age_rounds
    growth = results.aging.resident_growth
    rows += [
        _goal(
            f"flat to round {last:,}", "±5 %", f"{100 * (worst_age - 1):+.1f} %", abs(worst_age - 1) <= 0.05
        ),
        _goal(f"resident memory to round {last:,}", "±5 %", f"{100 * growth:+.2f} %", abs(growth) <= 0.05),
    ]
    for window in results.windows:
        if window.window_rounds in (30, GOAL_WINDOW):
            one = window.alone("cropped").mean_s.median / window.alone("engine").mean_s.median
            rows.append(
                _goal(
                    f"against plain incremental decoding, window of {window.window_rounds}: one session",
                    "not slower",
                    f"{one:.2f} times as fast",
                    one >= 1,
                )
            )
    for both in results.two_cores:
        rows.append(
            _goal(
                f"the same, {both.num_sessions} sessions against one after the other, on two cores, window of "
                f"{both.window_rounds}",
                "≥ 2 times",
                f"{both.ratio} times the rounds a second",
                both.ratio.median >= 2,
            )
        )
    most = max(results.limits, key=lambda one: one.num_sessions)
    overhead_ms = 1e3 * most.overhead_s.median / most.num_sessions
    rows.append(
        _goal(
            f"outside the model's forward, per round at {most.num_sessions} sessions",
            "< 1 ms",
            f"{overhead_ms:.2f} ms",
            overhead_ms < 1,
        )
    )
    gap = results.price.state_f1_gap["move"]
    rows.append(
        _goal(
            "state F1 of (b) the turned prefix against (a) prefilling anew",
            "within 1 point",
            f"{100 * gap.value:+.2f} points ({100 * gap.low:+.2f} to {100 * gap.high:+.2f})",
            abs(gap.value) <= 0.01,
        )
    )
    return "## Goals\n\n" + _table(("what", "goal", "measured", ""), rows)


def _goal(what: str, goal: str, measured: str, is_met: bool) -> tuple[str, ...]:
    return what, goal, measured, "met" if is_met else "**missed**"


def _cost(results: Results) -> str:
    text = """## What a round costs

Every session's window is full and every round quiet. Baselines are Hugging Face's own language model with its own
attention (sdpa) and `DynamicCache`, logits of the last position only, embeddings and positions made once a round:

- **(i) resend**: the published loop. The window is sent anew every second, its oldest round left out.
- **(ii) evict D**: incremental until the window is full, then the oldest D rounds go at once and the rest is prefilled.
- **plain incremental decoding**: one session at a time, cache held at the window's length by cutting off its oldest
  entries. It forgets the instruction, so it does less than is wanted; it is here as the least that a round can cost.

![cost](engine-cost.png)
"""
    for cost in results.windows:
        rows = []
        for side in SIDES:
            alone, best = cost.alone(side), cost.best(side)
            rows.append(
                (
                    NAMES[side],
                    f"{alone.mean_rounds:.0f}",
                    _ms(alone.mean_s),
                    _ms(alone.worst_s),
                    f"{_ms(best.mean_s)}, {best.num_sessions} at once",
                    _ms(best.worst_s),
                )
            )
        text += f"\n**{cost.window_rounds} rounds**, {cost.context_tokens:,} tokens; milliseconds a round\n\n"
        text += _table(
            ("", "rounds held", "mean, one session", "worst", "mean at best batch size", "worst"), rows
        )
        text += "\n"
    return (
        text
        + "\n"
        + _prose("""
            In a batch a forward's time is shared out, the longest one's as "worst"; each session waits for all of it.
            Batches of the baselines have rounds of one length, so that they pay for no padding. (ii) is put together
            from its parts: a prefill of one session (a batch gains nothing there, see (i)), and what its sessions
            take, extended together, at four lengths between two evictions.
        """)
        + "\n\n"
        + _two_cores(results)
    )


def _two_cores(results: Results) -> str:
    rows = [
        (
            str(both.window_rounds),
            _ms(both.engine_s),
            f"{_ms(both.plain_s)}, {both.plain_threads} thread{'s' if both.plain_threads > 1 else ''}",
            str(both.ratio),
        )
        for both in results.two_cores
    ]
    num_sessions = results.two_cores[0].num_sessions
    method = _prose(f"""
        On both cores, wall time: {num_sessions} sessions, all of them in each step of the engine, torch having two
        threads; and plain incremental decoding, which serves one session after the other, with one thread or two,
        whichever is faster for it. Milliseconds a round of one session.
    """)
    return f"{method}\n\n{_table(('window', 'this engine', 'plain incremental decoding', 'ratio'), rows)}"


def _flat(results: Results) -> str:
    rows = [
        (
            f"{sample.age_rounds:,}",
            _ms(sample.old_s),
            _ms(sample.young_s),
            str(sample.ratio),
            f"{sample.resident_bytes / 2**20:.1f}",
        )
        for sample in results.aging.samples
    ]
    youth = results.aging.samples[0].young_rounds
    growth = _prose("""
        In the length of the window only attention grows. Dashed: the cost at the shortest window, were all of it to
        grow with the floating-point operations; what does not (norms, bookkeeping) keeps the measured line below it.
    """)
    return f"""## Flat in age, linear in length

![flat](engine-flat.png)

One session with a window of {results.aging.window_rounds} rounds. At each age it is timed in turn with one that is only
{youth:,} rounds old; the ratio is that of neighbouring blocks of rounds. In brackets quartiles.

{_table(("age, rounds", "old, ms", "young, ms", "ratio", "resident, MiB"), rows)}

{growth}"""


def _limit(results: Results) -> str:
    rows = []
    for one in results.limits:
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in one.shares.items())
        rows.append(
            (
                str(one.num_sessions),
                f"{_ms(one.step_s)}",
                f"{_ms(one.products_s)}",
                f"{one.flops_per_s / 1e9:.0f} of {one.products_flops_per_s / 1e9:.0f}",
                f"{1e3 * one.overhead_s.median / one.num_sessions:.2f}",
                shares,
            )
        )
    header = (
        "sessions",
        "step, ms",
        "products alone, ms",
        "GFLOP/s, of",
        "outside forward, ms a round",
        "shares of the step",
    )
    method = _prose("""
        One step: a new quiet round for each session, windows of 32 rounds. "Products alone" are the matrix products
        that the step needs, those of attention included, with the same shapes in plain PyTorch. Operations are counted
        without credit for what a causal mask hides. "Outside forward" is the step less the model's forward and output
        head: bookkeeping, eviction, embeddings, choosing. Shares are by torch's profiler; "python" is what no operator
        accounts for.
    """)
    return f"""## Against the limit

![time](engine-time.png)

{method}

{_table(header, rows)}"""


def _load(results: Results) -> str:
    rows = []
    for load in results.loads:
        held = load.held
        rows.append(
            (
                NAMES[load.side],
                str(held.num_streams),
                number(held.p50_ms),
                number(held.p99_ms),
                f"{held.busy_share:.0%}",
            )
            if held
            else (NAMES[load.side], "0", "", "", "")
        )
    load = results.loads[0]
    seconds = load.held.duration_s if load.held else 0
    method = _prose(f"""
        Open loop: every stream has a frame each second at a random phase, {load.response_share:.0%} of the rounds
        respond with {load.reply_tokens} tokens (by script; each is decoded), windows of {load.window_rounds} rounds are
        full. A number of streams holds if the 99th percentile from arrival to state stays below {load.limit_ms:.0f} ms
        for {seconds:.0f} s and nothing is shed. One process, wall time, so other processes count.
    """)
    elsewhere = _prose("""
        The same command measures a Qwen2.5-VL-7B shape with random weights on a GPU, its encoder beside it: see
        [engine-gpu.md](engine-gpu.md).
    """)
    return f"""## Streams at once

![load](engine-load.png)

{method}

{_table(("", "streams", "p50, ms", "p99, ms", "busy"), rows)}

{elsewhere}"""


def _price(results: Results) -> str:
    price = results.price
    names = {
        "prefill": "(a) window prefilled anew every round",
        "move": "(b) pinned prefix turned (the default)",
        "keep": '(c) positions kept (`pinned_positions="keep"`)',
    }
    rows = []
    for way, name in names.items():
        state_gap, event_gap = price.state_f1_gap.get(way), price.event_f1_gap.get(way)
        rows.append(
            (
                name,
                _points(price.state_f1[way]),
                _points(state_gap, signed=True) if state_gap else "",
                _points(price.event_f1[way]),
                _points(event_gap, signed=True) if event_gap else "",
            )
        )
    header = ("", "state F1", "against (a)", "event F1", "against (a)")
    method = _prose(f"""
        {price.num_streams} simulated streams that the checkpoint (of commit `{results.quality_commit}`) has not seen,
        all five tasks, windows of {results.checkpoint_window_rounds} rounds; scored are the {price.num_rounds:,} rounds
        after a window first slid, with {price.num_events} events to tell. State F1 (macro): every earlier reply is
        gold's, in all three ways. Event F1: nothing forced, right words within 2 s. In points; in brackets 95 %
        intervals, the same streams resampled for all ways.
    """)
    return f"""## What the window costs in quality

![window](engine-window.png)

{method}

{_table(header, rows)}"""


def _rebuild(results: Results) -> str:
    rebuilt = results.rebuild
    what = _prose(f"""
        After a takeover a session is rebuilt by replaying its last window with what it had said. It is not the same
        session bit for bit: the keys and values of the one that ran on had seen rounds that have left the window since.
        {rebuilt.num_streams} sessions were rebuilt in mid-stream and run on beside the originals, both on their own
        outputs, for {rebuilt.num_rounds:,} rounds:
    """)
    return f"""## Rebuilt from the last window

{what}

- states agree in {rebuilt.early_agreement:.1%} of the first eight rounds, in {rebuilt.later_agreement:.1%} of the rest;
- {rebuilt.identical_streams} of {rebuilt.num_streams} sessions never differ in a state;
- of {rebuilt.num_replies} replies that both gave in the same round, {rebuilt.same_text:.1%} have the same text."""


def _prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)


def _ms(spread: Spread) -> str:
    return str(Spread(1e3 * spread.median, 1e3 * spread.low, 1e3 * spread.high, spread.num_repeats))


def _points(value: Interval, signed: bool = False) -> str:
    form = "{:+.1f}" if signed else "{:.1f}"
    shown = [form.format(100 * one) for one in (value.value, value.low, value.high)]
    return f"{shown[0]} ({shown[1]} … {shown[2]})"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
