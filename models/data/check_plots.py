"""The statistics of a file of samples as one picture."""

from pathlib import Path

from models.data.check import DataStatistics
from models.vlm.state import State

_STATE_COLOURS = {State.SILENCE: "#8a8f98", State.STANDBY: "#d98e04", State.RESPONSE: "#2a9d57"}


def plot_statistics(statistics: DataStatistics, path: Path) -> None:
    """States by task, durations, questions and responses a sample. ModuleNotFoundError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    states, durations, questions, responses = axes.flat

    tasks = sorted(statistics.task_states)
    left = [0.0] * len(tasks)
    for state, colour in _STATE_COLOURS.items():
        shares = [
            100 * statistics.task_states[task][state] / statistics.task_states[task].total() for task in tasks
        ]
        bars = states.barh(tasks, shares, left=left, color=colour, label=state.name.capitalize())
        states.bar_label(
            bars, [f"{s:.0f}" if s >= 4 else "" for s in shares], label_type="center", color="white"
        )
        left = [before + share for before, share in zip(left, shares, strict=True)]
    states.set(title="States by task", xlabel="% of rounds", xlim=(0, 100))
    if tasks:
        states.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)

    if statistics.durations_s:
        durations.hist(statistics.durations_s, bins=min(40, max(5, len(set(statistics.durations_s)))))
    durations.set(title="Durations", xlabel="s", ylabel="samples")

    for axis, counts, name in (
        (questions, statistics.questions_per_sample, "Questions"),
        (responses, statistics.responses_per_sample, "Responses"),
    ):
        axis.bar(list(counts), list(counts.values()))
        axis.set(title=f"{name} a sample", xlabel=name.lower(), ylabel="samples")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        # Room at both sides, so that a single bar is a bar and not a wall.
        axis.set_xlim(min(counts, default=0) - 1, max(counts, default=0) + 1)

    figure.suptitle(
        f"{statistics.num_samples} samples, {len(statistics.videos)} videos, {sum(statistics.durations_s) / 3600:.2g} h"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
