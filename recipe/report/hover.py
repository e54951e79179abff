"""The points of a picture's lines and where its axes are, for a page that shows the values under the pointer."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MOST_POINTS = 400  # per line; of longer ones every so many


def hover_of(figure: Figure) -> list[dict]:
    """For each axis of a drawn figure that has curves: `box`, its place in shares of the picture (left, top, right,
    bottom); `x`, the range of its horizontal axis, and `log`, whether that is logarithmic; `lines`, by label the points
    [x, y] of each. Call it after the figure has been drawn, when its layout is known."""
    return [about for axis in figure.axes if (about := _of_axis(axis))["lines"]]


def _of_axis(axis: Axes) -> dict:
    place = axis.get_position()
    lines = {}
    for line in axis.get_lines():
        x, y = map(np.asarray, line.get_data())
        label = str(line.get_label())
        if label.startswith("_") or len(x) == 0 or line.get_transform() != axis.transData:
            continue  # a horizontal line across the axis has no points of its own
        every = -(-len(x) // MOST_POINTS)
        points = np.column_stack([x, y]).astype(float).tolist()
        lines[label] = [points[0], *points[1:-1:every], points[-1]] if len(points) > 1 else points
    return {
        "box": [round(number, 4) for number in (place.x0, 1 - place.y1, place.x1, 1 - place.y0)],
        "x": list(map(float, axis.get_xlim())),
        "log": axis.get_xscale() == "log",
        "lines": lines,
    }
