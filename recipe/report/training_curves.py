"""The pictures of a pre-training: loss, learning rate and tokens per second, against steps and tokens."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")  # files only: no display is needed, none is opened
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from recipe.report.hover import hover_of
from recipe.train.model_card import BY_SOURCE

matplotlib.rcParams["svg.hashsalt"] = "recipe"  # the same picture is the same file

SIZE = (5.0, 3.4)  # inches: its smallest letters can be read where the picture is 350 pixels wide
OUTLIER = 4  # medians: speeds beyond that are cut off
BLUE, RED, GREY = "#1f5fa8", "#b3361b", "#555555"  # each 4.5:1 or more on white


@dataclass(frozen=True)
class Picture:
    """An SVG and what it shows, in words for who can't see it."""

    title: str
    alt: str
    svg: bytes
    hover: list[dict]  # as hover_of gives it


def pictures_of(log: pd.DataFrame) -> list[Picture]:
    """The pictures that a run's log, one row per line of log.jsonl, has something for."""
    train, evals = rows_with(log, "loss"), rows_with(log, "eval_loss")
    pictures = []
    if len(train) or len(evals):
        pictures.append(_picture("Loss", lambda axis: _loss(axis, train, evals), train, _loss_in_words(train, evals)))
    rates, speeds = rows_with(train, "learning_rate"), rows_with(train, "tokens_per_second")
    if len(rates):
        words = f"Learning rate against steps: {_ends(rates, 'learning_rate', '.3g')}; highest {_highest(rates)}."
        pictures.append(_picture("Learning rate", lambda axis: _learning_rate(axis, rates), train, words))
    if len(speeds):
        values = speeds["tokens_per_second"]
        span = f"{values.min():,.0f} to {values.max():,.0f}, median {values.median():,.0f}"
        words = f"Tokens per second against steps: {span}."
        pictures.append(_picture("Speed", lambda axis: _speed(axis, speeds), train, words))
    return pictures


def pictures_of_several(logs: dict[str, pd.DataFrame]) -> list[Picture]:
    """The pictures of several runs beside each other, from their logs by name: eval loss, training loss and speed."""
    pictures = []
    for title, column, unit in (
        ("Eval loss", "eval_loss", "nats per predicted token"),
        ("Training loss", "loss", "nats per predicted token"),
        ("Speed", "tokens_per_second", "tokens per second"),
    ):
        rows = {name: found for name, log in logs.items() if len(found := rows_with(log, column))}
        if rows:
            words = "; ".join(f"{name} {_ends(found, column, '.4g')}" for name, found in rows.items())
            pictures.append(
                _picture(title, partial(_several, rows, column, unit), pd.DataFrame(), f"{title}: {words}.")
            )
    return pictures


def _several(rows: dict[str, pd.DataFrame], column: str, unit: str, axis: Axes) -> None:
    for number, (name, found) in enumerate(rows.items()):
        marker = "o" if column == "eval_loss" else _marker(found)
        color = f"C{number % 10}"
        axis.plot(found["step"], found[column], color=color, linewidth=1.4, label=name, marker=marker, markersize=4)
    axis.set_ylabel(unit)
    axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    axis.legend(frameon=False)


def rows_with(log: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows that have a number called `name`, the last of each step."""
    if name not in log:
        return log.iloc[:0]
    return log[log[name].notna()].drop_duplicates("step", keep="last").sort_values("step")


def _picture(title: str, draw: Callable[[Axes], None], train: pd.DataFrame, words: str) -> Picture:
    figure, axis = plt.subplots(figsize=SIZE, layout="constrained")
    draw(axis)
    axis.set_xlabel("steps")
    axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    seen = rows_with(train, "tokens_seen")
    if len(seen):
        to_tokens, to_steps = _scales(seen["step"].to_numpy(float), seen["tokens_seen"].to_numpy(float))
        tokens = axis.secondary_xaxis("top", functions=(to_tokens, to_steps))
        tokens.xaxis.set_major_formatter(EngFormatter(sep=""))
        tokens.set_xlabel("tokens")
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    hover = hover_of(figure)
    plt.close(figure)
    return Picture(title, words, file.getvalue(), hover)


def _scales(steps: np.ndarray, tokens: np.ndarray) -> tuple[Callable, Callable]:
    """Steps to tokens and back, straight between the logs and beyond them: a step's tokens may change in a run."""
    steps, tokens = np.concatenate([[0.0], steps]), np.concatenate([[0.0], tokens])
    first, last = tokens[1] / steps[1], (tokens[-1] - tokens[-2]) / (steps[-1] - steps[-2])
    far = steps[-1]
    steps = np.concatenate([[-far], steps, [2 * far]])
    tokens = np.concatenate([[-far * first], tokens, [tokens[-1] + far * last]])
    return lambda x: np.interp(x, steps, tokens), lambda x: np.interp(x, tokens, steps)


def _loss(axis: Axes, train: pd.DataFrame, evals: pd.DataFrame) -> None:
    if len(train):
        axis.plot(train["step"], train["loss"], color=BLUE, linewidth=1.4, marker=_marker(train), label="training")
    if len(evals):
        axis.plot(evals["step"], evals["eval_loss"], color=RED, marker="o", markersize=4, label="evaluation")
    for number, column in enumerate(name for name in evals.columns if name.startswith(BY_SOURCE)):
        label = f"on {column.removeprefix(BY_SOURCE)}"
        axis.plot(evals["step"], evals[column], color=f"C{number % 10}", linewidth=1.0, linestyle=":", label=label)
    unigram = rows_with(evals, "eval_unigram_loss")
    if len(unigram):
        baseline = unigram["eval_unigram_loss"].iloc[-1]
        axis.axhline(baseline, color=GREY, linestyle="--", linewidth=1.4, label=f"unigram baseline {baseline:.2f}")
    axis.set_ylabel("nats per predicted token")
    axis.legend(frameon=False)


def _loss_in_words(train: pd.DataFrame, evals: pd.DataFrame) -> str:
    parts = []
    if len(train):
        parts.append(f"training {_ends(train, 'loss', '.3f')}")
    if len(evals):
        parts.append(f"evaluation {_ends(evals, 'eval_loss', '.3f')}")
    unigram = rows_with(evals, "eval_unigram_loss")
    if len(unigram):
        parts.append(f"the unigram baseline is {unigram['eval_unigram_loss'].iloc[-1]:.3f}")
    return f"Loss in nats against steps: {'; '.join(parts)}."


def _ends(rows: pd.DataFrame, name: str, form: str) -> str:
    first, last = rows.iloc[0], rows.iloc[-1]
    return f"{first[name]:{form}} at step {first['step']:,.0f}, {last[name]:{form}} at step {last['step']:,.0f}"


def _highest(rates: pd.DataFrame) -> str:
    top = rates.loc[rates["learning_rate"].idxmax()]
    return f"{top['learning_rate']:.3g} at step {top['step']:,.0f}"


def _learning_rate(axis: Axes, rows: pd.DataFrame) -> None:
    axis.plot(
        rows["step"], rows["learning_rate"], color=BLUE, linewidth=1.4, marker=_marker(rows), label="learning rate"
    )
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _speed(axis: Axes, rows: pd.DataFrame) -> None:
    values = rows["tokens_per_second"]
    axis.plot(rows["step"], values, color=BLUE, linewidth=1.4, marker=_marker(rows), label="tokens per second")
    axis.set_ylim(bottom=0)
    limit = OUTLIER * values.median()
    if values.max() > limit > 0:  # one stray log must not flatten all others; it is said, not hidden
        axis.set_ylim(top=limit)
        said, box = f"cut off: up to {values.max():,.0f}", {"color": "white", "pad": 2}
        axis.text(0.02, 0.96, said, transform=axis.transAxes, va="top", color=RED, bbox=box)
    axis.set_ylabel("tokens per second")
    axis.yaxis.set_major_formatter(EngFormatter(sep=""))


def _marker(rows: pd.DataFrame) -> str | None:
    return "o" if len(rows) == 1 else None  # a line of one point can't be seen
