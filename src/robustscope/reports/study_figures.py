"""Figures of a study: the matrix of correlations, what goes along with robustness, and pairs of properties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robustscope.reports.figures import BLACK, GRID, INK, SERIES, WHITE, drawing, make_axes
from robustscope.reports.why_figures import SIDES

CALLED = 0.05
"""Adjusted p-value up to which a coefficient is set in bold."""
DARK = 0.62
"""Coefficient above which a cell is dark enough for white figures."""
COLOURS = {"yes": SERIES[2], "no": SERIES[7], "open": SERIES[6]}


def matrix_figure(square: pd.DataFrame, adjusted: pd.DataFrame) -> Figure:
    """Draw the coefficients of every two properties: blue go together, red against each other.

    Figures are hundredths; bold ones have an adjusted p-value of at most 0.05. Gaps are empty.

    Args:
        square: coefficients, what ``analyses.correlation.matrix`` returned.
        adjusted: adjusted p-values, of the same properties.
    """
    names, values = [str(name) for name in square.index], square.to_numpy(dtype=float)
    with drawing():
        side = 0.34 * len(names)
        figure, axes = make_axes(side + 2.6, side + 2.2)
        axes.grid(visible=False)
        axes.pcolormesh(np.ma.masked_invalid(values), cmap=SIDES, vmin=-1, vmax=1, edgecolors="white", lw=0.8)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value) and row != column:
                p = float(adjusted.iloc[row, column])
                bold = "bold" if np.isfinite(p) and p <= CALLED else "normal"
                colour = WHITE if abs(value) > DARK else BLACK
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{100 * value:.0f}".replace("-", "\N{MINUS SIGN}"),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=colour,
                    fontweight=bold,
                )
        places = np.arange(len(names)) + 0.5
        axes.set_xticks(places, names, rotation=90, fontsize=8)
        axes.set_yticks(places, names, fontsize=8)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.spines["bottom"].set_visible(False)
        return figure


def expectation_figure(found: pd.DataFrame) -> Figure:
    """Draw how each property goes along with robustness, with its interval, and which way its source expects it.

    A triangle points to the side that is expected. Green agrees, red contradicts, grey leaves it open: the interval holds 0.

    Args:
        found: what ``analyses.study.expectations`` returned, without rows that have no coefficient.
    """
    rows = found.sort_values("value", ascending=True).reset_index(drop=True)
    with drawing():
        figure, axes = make_axes(6.6, 0.27 * len(rows) + 0.9)
        axes.grid(axis="x", visible=True)
        axes.grid(axis="y", visible=False)
        axes.axvline(0, color=INK, lw=0.9)
        for place, row in enumerate(rows.to_dict("records")):
            colour = COLOURS[row["agrees"]]
            if not (pd.isna(row["low"]) or pd.isna(row["high"])):
                axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=2.4, solid_capstyle="butt")
            marker = ">" if row["expected"] == "higher" else "<"
            axes.plot(row["value"], place, marker, color=colour, ms=6.5, mec="white", mew=0.6)
        axes.set_yticks(np.arange(len(rows)), rows["property"].tolist(), fontsize=8)
        against = str(rows["against"].iloc[0]).replace("_", " ") if len(rows) else "robustness"
        axes.set(xlim=(-1.02, 1.02), ylim=(-0.7, len(rows) - 0.3), xlabel=f"rank correlation with {against}")
        return figure


def scatter_figure(table: pd.DataFrame, against: str, properties: Sequence[str]) -> Figure:
    """Draw models as points: each property against robustness, one panel for each property, names beside the points.

    Args:
        table: one row for each model.
        against: the property across.
        properties: those upwards, one or more.
    """
    columns = min(3, len(properties))
    lines = -(-len(properties) // columns)
    with drawing():
        figure = Figure(figsize=(3.1 * columns, 2.5 * lines + 0.1), layout="constrained")
        for place, name in enumerate(properties):
            axes: Any = make_axes(0, 0, figure=figure, spot=(lines, columns, place + 1))[1]
            both = table[[against, name]].dropna()
            axes.scatter(both[against], both[name], s=20, color=SERIES[0], lw=0, alpha=0.85)
            axes.set_title(name, fontsize=8, color=INK, loc="left")
            axes.spines["bottom"].set_color(GRID)
            axes.tick_params(labelsize=7)
            if place >= len(properties) - columns:
                axes.set_xlabel(against.replace("_", " "), fontsize=8)
        return figure
