"""The picture of scores against pre-training: the average and each task, by step and by tokens, seeds as a band."""

from dataclasses import dataclass
from typing import BinaryIO

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")  # files only: no display is needed, none is opened
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import XAxis
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, NullLocator

from recipe.finetune.suite import Suite
from recipe.finetune.suites import columns_of
from recipe.report.hover import hover_of
from recipe.report.score_frames import average, present_columns, suites_of

matplotlib.rcParams["text.parse_math"] = False  # a $ in a folder's name is a $

PANEL = (4.2, 3.0)  # inches
COLUMNS_A_ROW = 3
LOG_FROM = 8  # times the first step: a last step beyond that puts the steps on a log scale
LEAST_SPAN = 5.0  # percentage points an axis shows at least: noise must not look like a curve
LEAST_GAP = 0.13  # of the axis, between the labels of a log scale
GREY = "#555555"
CHANCE = "most frequent answer"


@dataclass(frozen=True)
class Panel:
    """One axis: the mean of its columns, which are one or more."""

    title: str
    columns: tuple[str, ...]


def draw(
    frame: pd.DataFrame, cells: pd.DataFrame, file: BinaryIO, format: str = "png", columns: int = COLUMNS_A_ROW
) -> list[dict]:
    """Writes a PNG (or an SVG, by `format`) to `file`, with `columns` panels side by side; returns what hover_of does.
    `frame` holds one row per
    job, `cells` its means, as in recipe.report.scores.

    Each run (the part of a checkpoint's name before /) is a line over its checkpoints; a model without a step, and one
    at step 0, is a horizontal dashed line. The band is the range of the seeds. The first panel is the mean over the
    tasks that every checkpoint shown has; with all eight it is the average. A dotted line is the score of the most
    frequent answer. Where no run has two checkpoints, each panel has a bar for each model in place of curves.
    """
    suites = [suite for suite in suites_of(frame) if present_columns(cells, tuple(suite.columns))]
    panels = [panel for suite in suites for panel in _panels_of(suite, cells)]
    rows = -(-len(panels) // columns)
    width = min(len(panels), columns)
    layout = ConstrainedLayoutEngine(h_pad=0.1)  # inches: a title must not look like the legend of the axis above it
    size = (PANEL[0] * width, PANEL[1] * rows + 0.8)
    figure, axes = plt.subplots(rows, width, figsize=size, squeeze=False, layout=layout)
    about = frame.drop_duplicates("checkpoint").set_index("checkpoint")
    lines = _lines(about)
    for place, axis in enumerate(axes.flat):
        if place >= len(panels):
            axis.axis("off")
            continue
        _draw_panel(axis, panels[place], frame, cells, lines, about)
    known = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        known = dict(zip(labels, handles, strict=True)) | known
    if labels := list(known):
        handles = [known[label] for label in labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=min(width + 1, len(labels)), frameon=False)
    part = "; part of the official examples" if (frame["train_is_subset"] | frame["dev_is_subset"]).any() else ""
    trained = any(suite.trains for suite in suites)
    mark = "whisker" if all(len(names) == 1 for names in lines.values()) else "band"
    what, band = ("dev scores", f"; {mark}: range of the seeds") if trained else ("scores", "")
    title = f"{' and '.join(suite.title for suite in suites)} {what} in percent{band}{part}"
    figure.suptitle(title, fontsize=9, color="#555555", wrap=True)
    figure.savefig(file, format=format, dpi=130)
    hover = hover_of(figure)
    plt.close(figure)
    return hover


def _panels_of(suite: Suite, cells: pd.DataFrame) -> list[Panel]:
    """The mean of the columns of the suite's first average that every checkpoint has, and each column."""
    panels = []
    for whole in suite.averages[:1]:
        shared = tuple(column for column in whole.columns if (cells[column, "seeds"] > 0).all())
        if len(shared) > 1:
            part = f"mean of {len(shared)} tasks (no {suite.title} average)"
            panels.append(Panel(f"average of {len(shared)} tasks" if shared == whole.columns else part, shared))
    shown = present_columns(cells, tuple(suite.columns))
    return [*panels, *(Panel(f"{column} ({suite.metric_name(column)})", (column,)) for column in shown)]


def _lines(about: pd.DataFrame) -> dict[str, list[str]]:
    """The checkpoints of each line, by step; a baseline is a line of one."""
    lines: dict[str, list[str]] = {}
    for name, row in about.sort_values("step").iterrows():
        on_axis = pd.notna(row["step"]) and row["step"] > 0
        lines.setdefault(name.rsplit("/", 1)[0] if on_axis else name, []).append(name)
    return lines


def _draw_panel(
    axis: Axes, panel: Panel, frame: pd.DataFrame, cells: pd.DataFrame, lines: dict, about: pd.DataFrame
) -> None:
    by_seed = [frame.groupby(["checkpoint", "seed"])[f"score:{column}"].first() * 100 for column in panel.columns]
    scores = pd.concat(by_seed, axis=1).mean(axis=1, skipna=False)
    means = average(cells, panel.columns)
    axis.set_title(panel.title, fontsize=10, fontweight="bold" if len(panel.columns) > 1 else "normal")
    axis.margins(x=0.06, y=0.15)
    low, high = scores.groupby("checkpoint").min(), scores.groupby("checkpoint").max()
    palette = plt.get_cmap("tab10")
    chances = [
        chance for column in panel.columns if (chance := columns_of(suites_of(frame))[column].chance) is not None
    ]
    if len(chances) == len(panel.columns):
        chance = 100 * float(np.mean(chances))
        axis.axhline(chance, color=GREY, linestyle=":", linewidth=1.5, label=CHANCE, zorder=1)
    if all(len(names) == 1 for names in lines.values()):
        _draw_bars(axis, means, low, high, lines)
        return
    ratio = None
    for number, (line, names) in enumerate(lines.items()):
        color = palette(number % 10)
        names = [name for name in names if name in means and pd.notna(means[name])]
        if not names:
            axis.plot([], [], color=color, label=line)  # the legend is the first panel's: it must know every line
            continue
        steps = about.loc[names, "step"].to_numpy(dtype=float)
        if len(names) == 1 and not steps[0] > 0:
            axis.axhline(means[names[0]], color=color, linestyle="--", linewidth=1.5, label=line)
            axis.axhspan(low[names[0]], high[names[0]], color=color, alpha=0.12, linewidth=0)
            continue
        axis.plot(steps, means[names], color=color, marker="o", markersize=4, linewidth=1.8, label=line)
        if len(names) > 1:
            axis.fill_between(steps, low[names], high[names], color=color, alpha=0.2, linewidth=0)
        else:
            spread = [[means[names[0]] - low[names[0]]], [high[names[0]] - means[names[0]]]]
            axis.errorbar(steps, means[names], yerr=spread, color=color, capsize=4)
        tokens = about.loc[names, "tokens_seen"].to_numpy(dtype=float)
        if np.isfinite(tokens).all():
            ratio = tokens[-1] / steps[-1] if ratio in (None, tokens[-1] / steps[-1]) else False
    bottom, top = axis.get_ylim()
    if top - bottom < LEAST_SPAN:
        middle = (top + bottom) / 2
        axis.set_ylim(middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2)
    steps = np.unique(about["step"][about["step"] > 0])
    doublings = len(steps) > 0 and steps[-1] >= LOG_FROM * steps[0]
    if doublings:
        axis.set_xscale("log")
        _only_ticks(axis.xaxis, steps)
    axis.set_xlabel(f"pre-training steps{' (log scale)' if doublings else ''}", fontsize=8)
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if ratio:  # runs of different batch sizes have no common second axis
        tokens_axis = axis.secondary_xaxis("top", functions=(lambda x: x * ratio, lambda x: x / ratio))
        if doublings:
            _only_ticks(tokens_axis.xaxis, steps * ratio)
        places = 0 if doublings else None  # checkpoints' tokens are no round numbers
        tokens_axis.xaxis.set_major_formatter(EngFormatter(places=places, sep=""))
        tokens_axis.set_xlabel(f"tokens{' (log scale)' if doublings else ''}", fontsize=8)
        tokens_axis.tick_params(labelsize=7)


def _only_ticks(axis: XAxis, places: np.ndarray) -> None:
    """Ticks of a log axis at some of `places` alone, the last among them, whose labels don't meet: those of its own
    would write theirs over each other."""
    span = np.log(places[-1] / places[0])
    kept = [places[-1]]
    for place in places[-2::-1]:
        if np.log(kept[-1] / place) >= LEAST_GAP * span:
            kept.append(place)
    axis.set_ticks(kept[::-1])
    axis.set_minor_locator(NullLocator())


def _draw_bars(axis: Axes, means: pd.Series, low: pd.Series, high: pd.Series, lines: dict[str, list[str]]) -> None:
    """A bar for each model, from 0, its score above it, the range of the seeds as a whisker."""
    palette = plt.get_cmap("tab10")
    for number, (line, (name,)) in enumerate(lines.items()):
        value = means.get(name, np.nan)
        if pd.isna(value):
            axis.bar(number, 0, color=palette(number % 10), label=line)
            continue
        spread = [[value - low[name]], [high[name] - value]]
        axis.bar(number, value, width=0.6, color=palette(number % 10), label=line, yerr=spread, capsize=4)
        axis.annotate(f"{value:.1f}", (number, max(high[name], 0)), (0, 3), textcoords="offset points", ha="center",
                      fontsize=8)  # fmt: skip
    axis.set_xticks([])
    axis.set_xlim(-0.7, len(lines) - 0.3)
    axis.margins(y=0.18)
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    axis.grid(alpha=0.25, axis="y")
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8)
