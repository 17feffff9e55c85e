"""Figures of brackets and of the distributions that estimates were fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robustscope.analyses.clever_fit import fit_picture
from robustscope.reports.figures import GRID, INK, SERIES, drawing, make_axes, to_svg

Row = Mapping[str, Any]
PROVED, OPEN, WRONG = SERIES[2], SERIES[6], SERIES[7]
MOST_FITS = 6


def bracket_figure(rows: Sequence[Row], epsilon: float, largest: float, name: str) -> str:
    """Draw the bracket of each sample as a bar, sorted by the nearest example.

    Up to the certified radius a bar is filled: nothing lies there. From there to the nearest example it is pale: nobody
    knows. A dot is the estimate, a red cross one that lies above the nearest example.

    Args:
        rows: rows of the bracket analysis, one model and threat model.
        epsilon: the radius of the threat model, a dashed line.
        largest: radius at which certificates and estimates end.
        name: prefix of the ids inside the SVG.
    """
    with drawing():
        figure, axes = make_axes(6.0, 3.1)
        place = np.arange(len(rows))
        top = max([largest / 2, *(r["nearest"] for r in rows if r["nearest"] is not None)])
        proved = np.asarray([r["certified"] or 0.0 for r in rows])
        reach = np.asarray([top if r["nearest"] is None else r["nearest"] for r in rows])
        axes.bar(place, reach - proved, bottom=proved, width=0.86, color=OPEN, alpha=0.25, lw=0)
        axes.bar(place, proved, width=0.86, color=PROVED, lw=0)
        found = [i for i, r in enumerate(rows) if r["nearest"] is not None]
        axes.hlines(reach[found], place[found] - 0.43, place[found] + 0.43, color=INK, lw=1.6)
        for wrong, marker, colour, size in ((False, "o", SERIES[1], 20), (True, "x", WRONG, 34)):
            which = [i for i, r in enumerate(rows) if r["estimate"] is not None and r["contradicts"] is wrong]
            heights = [min(rows[i]["estimate"], 1.04 * top) for i in which]
            line = 0 if marker == "o" else 1.8
            axes.scatter(which, heights, marker=marker, s=size, c=colour, lw=line, zorder=3, clip_on=False)
        axes.axhline(epsilon, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=1)
        axes.set(xlim=(-0.8, len(rows) - 0.2), ylim=(0, 1.04 * top), ylabel="radius")
        axes.set_xlabel("samples, by the distance of their nearest adversarial example")
        axes.set_xticks([])
        axes.yaxis.set_major_locator(MaxNLocator(6))
        return to_svg(figure, name, "Certified radius, estimate and nearest example of each sample")


def chosen_fits(rows: Sequence[Row]) -> list[Row]:
    """Return the samples whose fits are shown: those that fit worst, then those that fit best."""
    fitted = [r for r in rows if r["fit"] and r["fit"]["shape"] is not None and r["fit"]["p_value"] is not None]
    ranked = sorted(fitted, key=lambda r: r["fit"]["p_value"])
    if len(ranked) <= MOST_FITS:
        return ranked
    return ranked[: MOST_FITS // 2] + ranked[-(MOST_FITS // 2) :]


def fit_figure(rows: Sequence[Row], name: str) -> str:
    """Draw for each sample the histogram of its largest gradient lengths under the distribution that was fitted.

    Args:
        rows: rows of the bracket analysis with a fit, six at most.
        name: prefix of the ids inside the SVG.
    """
    with drawing():
        columns = min(3, len(rows))
        lines = -(-len(rows) // columns)
        figure = Figure(figsize=(2.9 * columns, 2.0 * lines + 0.2), layout="constrained")
        for place, row in enumerate(rows):
            axes = make_axes(0, 0, figure=figure, spot=(lines, columns, place + 1))[1]
            fit = fit_picture(row["fit"])
            axes.stairs(fit.heights, fit.edges, color=OPEN, alpha=0.35, fill=True, lw=0)
            axes.plot(fit.grid, fit.density, color=SERIES[0], lw=1.6)
            least, most, end = fit.values[0], fit.values[-1], fit.grid[-1]  # the grid ends at the location
            seen = most - least
            near = end <= most + 2 * seen  # a line far away would press the histogram flat
            axes.set_xlim(least - 0.15 * seen, (end if near else most) + 0.15 * seen)
            if near:
                axes.axvline(end, color=WRONG, lw=1.2, ls=(0, (4, 3)))
            axes.set_title(
                f"sample {row['sample']}, KS p = {row['fit']['p_value']:.2g}", fontsize=9, color=INK, loc="left"
            )
            axes.set_yticks([])
            axes.spines["bottom"].set_color(GRID)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        return to_svg(figure, name, "Largest gradient lengths and the fitted distributions")


def bracket_figures(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each bracket of a run its figure, and that of the fits, or None if there are none."""
    found = []
    for index, entry in enumerate(summary["brackets"]):
        rows = chosen_fits(entry["rows"])
        found.append(
            {
                "svg": bracket_figure(entry["rows"], entry["epsilon"], entry["largest"], f"bracket{index}"),
                "fits": fit_figure(rows, f"fits{index}") if rows else None,
            }
        )
    return found
