"""Figures as SVG: drawn by matplotlib, then freed of inline styles so that the page can colour them light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from robustscope.reports.formats import number

INK, GRID = "#4b4f58", "#d5d7dc"
BLACK, WHITE = "#16181d", "#ffffff"
"""Colours of figures on a coloured cell, on light pages and dark ones."""
SERIES = ("#3451b2", "#b8500c", "#0f766e", "#9d2463", "#77681a", "#6d3fc0", "#52606d", "#b42318")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = "osD^vPX*"
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "robustscope",
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 10.0,
    "font.family": "sans-serif",
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0.0,
    "xtick.major.pad": 7.0,
    "ytick.major.size": 0.0,
    "text.color": INK,
    "path.simplify": False,
}


def drawing() -> AbstractContextManager[None]:
    """Return the context of a drawing: matplotlib's defaults and our style, whatever the user has set; undone after."""
    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith(("backend", "toolbar"))}
    return mpl.rc_context(cast(Any, {**defaults, **_STYLE}))


def series(index: int) -> tuple[str, Any, str]:
    """Return colour, dashes and marker of the i-th model: told apart also in print and by the colour-blind."""
    return (
        SERIES[index % len(SERIES)],
        DASHES[(index // len(SERIES) + index) % len(DASHES)],
        MARKERS[index % len(MARKERS)],
    )


def curve_figure(points: Sequence[Mapping[str, Any]], order: Sequence[str], marks: Sequence[float], name: str) -> str:
    """Draw accuracy against epsilon of all models in one norm, with 95 % bands.

    Args:
        points: rows of the curve analysis, one norm.
        order: model names, which decides the colours.
        marks: headline radii, marked by a vertical line.
        name: prefix of the ids inside the SVG.
    """
    with drawing():
        figure, axes = make_axes(6.0, 3.3)
        for index, model in enumerate(order):
            mine = [p for p in points if p["model"] == model and not isinstance(p["epsilon"], str)]
            colour, dashes, marker = series(index)
            for part in _stretches(mine):
                x = [p["epsilon"] for p in part]
                axes.fill_between(
                    x, [p["low"] for p in part], [p["high"] for p in part], color=colour, alpha=0.14, lw=0
                )
                y = [p["accuracy"] for p in part]
                axes.plot(
                    x, y, color=colour, ls=dashes, lw=1.8, marker=marker, ms=4.5, mec="none", clip_on=False, zorder=3
                )
        for mark in marks:
            axes.axvline(mark, color=INK, lw=0.8, ls=(0, (2, 3)), zorder=1)
        family = next((p["norm"] for p in points if ":" in p["norm"]), None)
        axes.set(ylim=(0, 1), xlabel=f"factor of the sizes in {family}" if family else "epsilon")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        return to_svg(figure, name, "Accuracy against epsilon")


def _stretches(points: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return runs of neighbouring points that have a value: a line never crosses a gap."""
    parts: list[list[Mapping[str, Any]]] = [[]]
    for point in points:
        if point["accuracy"] is None:
            parts.append([])
        else:
            parts[-1].append(point)
    return [part for part in parts if part]


def distance_figure(bins: Sequence[Mapping[str, Any]], order: Sequence[str], name: str) -> str:
    """Draw how many samples have their nearest adversarial example at which distance, all models at one radius.

    Args:
        bins: rows of the distances analysis, one threat model.
        order: model names, which decides the colours.
        name: prefix of the ids inside the SVG.
    """
    with drawing():
        figure, axes = make_axes(6.0, 2.7)
        for index, model in enumerate(order):
            mine = [row for row in bins if row["model"] == model]
            if not mine:
                continue
            colour, dashes, _ = series(index)
            edges = [row["left"] for row in mine] + [mine[-1]["right"]]
            heights = [row["count"] for row in mine]
            axes.stairs(heights, edges, color=colour, alpha=0.18, fill=True, lw=0)
            axes.stairs(heights, edges, color=colour, ls=dashes, lw=1.5)
        axes.set(xlabel="distance of the nearest adversarial example found", ylabel="samples")
        axes.set_xlim(0, max(row["right"] for row in bins))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        return to_svg(figure, name, "Histogram of adversarial distances")


def make_axes(
    width: float, height: float, *, figure: Figure | None = None, spot: tuple[int, int, int] = (1, 1, 1)
) -> tuple[Figure, Axes]:
    """Return a figure of this size in inches, or the one given, with axes at ``spot`` (rows, columns, which)."""
    figure = figure or Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(*spot)
    axes.grid(axis="x", visible=False)
    axes.spines["left"].set_visible(False)
    return figure, axes


def to_svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure as an inline SVG element without styles, dates or ids that could clash on a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", buffer.getvalue()))
    for element in root.iter():
        _free(element, name, used)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"class": "figure", "role": "img", "aria-label": title})
    root.attrib.update({"stroke-linejoin": "round", "stroke-linecap": "butt"})
    return ElementTree.tostring(root, encoding="unicode")


def _free(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Turn the inline style of an element into attributes, and give its ids the figure's name."""
    for entry in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in entry.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            element.set("font-size", size[1] if size else "10")
        elif key and not key.startswith("font-family"):
            element.set(key, value)
    if (identity := element.attrib.pop("id", None)) in used and identity:
        element.set("id", f"{name}-{identity}")
    if link := element.attrib.pop(_XLINK, None):
        element.set("href", link.replace("#", f"#{name}-", 1))
    for key, value in list(element.attrib.items()):
        element.set(key, re.sub(r"url\(#", f"url(#{name}-", value))


def _reach(threat: Mapping[str, Any]) -> str:
    if ":" in threat["norm"]:
        return f"{threat['norm']}, factor up to {number(threat['epsilon'], 4)}"
    return f"{threat['norm']} up to {number(threat['epsilon'], 4)}"


def figures(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of a report: {"curves": [...], "distances": [...]}, each with a title and its SVG."""
    order = [model["name"] for model in summary["models"]]
    curves = []
    for norm in dict.fromkeys(point["norm"] for point in summary["curve"]):
        points = [point for point in summary["curve"] if point["norm"] == norm]
        finite = [p for p in points if not isinstance(p["epsilon"], str)]
        marks = [t["epsilon"] for t in summary["threats"] if t["norm"] == norm and not isinstance(t["epsilon"], str)]
        curves.append({"norm": norm, "svg": curve_figure(finite, order, marks, f"curve{len(curves)}")})
    histograms = []
    for threat in summary["threats"]:
        rows = [r for r in summary["distances"] if (r["norm"], r["epsilon"]) == (threat["norm"], threat["epsilon"])]
        if any(row["count"] for row in rows):
            svg = distance_figure(rows, order, f"distance{len(histograms)}")
            histograms.append({"name": _reach(threat), "svg": svg})
    return {"curves": curves, "distances": histograms}
