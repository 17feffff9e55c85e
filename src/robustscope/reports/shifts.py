"""Shifts as a table and a heat map: accuracy for each corruption and severity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from robustscope.core.files import write_text
from robustscope.reports.figures import BLACK, GRID, SERIES, WHITE, drawing, make_axes, to_svg
from robustscope.reports.formats import interval, number, percent
from robustscope.reports.formats import markdown as safe
from robustscope.reports.markdown import rate
from robustscope.reports.tables import table

SHADES = LinearSegmentedColormap.from_list("shades", ["#f4f5f9", SERIES[0]])
DARK = 0.8
"""Accuracy above which a cell is dark enough for white figures."""


def heat_map(summary: Mapping[str, Any], name: str = "shifts") -> str:
    """Draw accuracy in percent for each corruption (rows) and severity (columns); dark is accurate.

    Args:
        summary: what ``analyses.shifts.shift_summary`` returned.
        name: prefix of the ids inside the SVG.
    """
    rows = [row["corruption"] for row in summary["corruptions"]]
    severities = sorted({cell["severity"] for cell in summary["cells"]})
    values = np.full((len(rows), len(severities)), np.nan)
    for cell in summary["cells"]:
        values[rows.index(cell["corruption"]), severities.index(cell["severity"])] = cell["value"]
    with drawing():
        figure, axes = make_axes(2.6 + 0.62 * len(severities), 0.9 + 0.27 * len(rows))
        axes.grid(visible=False)
        axes.pcolormesh(np.ma.masked_invalid(values), cmap=SHADES, vmin=0, vmax=1, edgecolors=GRID, lw=0.6)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = WHITE if value > DARK else BLACK
                axes.text(column + 0.5, row + 0.5, f"{100 * value:.0f}", ha="center", va="center", color=colour)
        axes.set_xticks(np.arange(len(severities)) + 0.5, [str(severity) for severity in severities])
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.invert_yaxis()
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("severity")
        return to_svg(figure, name, "Accuracy in percent for each corruption and severity")


def render_shifts(summary: Mapping[str, Any], title: str) -> str:
    """Return the shifts of a model as Markdown.

    Args:
        summary: what ``analyses.shifts.shift_summary`` returned.
        title: of the page.
    """
    severities = sorted({cell["severity"] for cell in summary["cells"]})
    cells = {(cell["corruption"], cell["severity"]): cell for cell in summary["cells"]}
    head = ["Corruption", *(f"Severity {k}" for k in severities), "Mean error", "RMS calibration error", "AURRA"]
    compared = summary["mce"] is not None
    body = []
    for row in summary["corruptions"]:
        found = [cells.get((row["corruption"], k)) for k in severities]
        line = [safe(row["corruption"]), *("–" if c is None else percent(c["value"]) for c in found)]
        line += [percent(row["error"]), percent(row["rms_calibration_error"]), percent(row["aurra"])]
        body.append(line + ([percent(row["ratio"])] if compared else []))
    blocks = [f"# Shifts: {safe(title)}", *_sentences(summary)]
    blocks.append(table(head + (["Over the baseline"] if compared else []), body))
    widest = max(summary["cells"], key=lambda cell: cell["high"] - cell["low"])
    blocks.append(
        f"Accuracy of {number(summary['n'])} images for each severity; the widest 95 % interval of a cell is "
        f"{interval(widest['low'], widest['high'])} %. All cells are of the same images, so they compare better than that."
    )
    return "\n\n".join(blocks) + "\n"


def _sentences(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    clean = summary["clean"]
    if clean is not None:
        lines.append(
            f"Clean accuracy {rate(clean)}, RMS calibration error {percent(clean['rms_calibration_error'])}, "
            f"AURRA {percent(clean['aurra'])}."
        )
    shifted = summary["shifted"]
    lines.append(
        f"Mean error under the shifts {percent(summary['mean_error'])}, RMS calibration error "
        f"{percent(shifted['rms_calibration_error'])}, AURRA {percent(shifted['aurra'])}."
    )
    if summary["mce"] is not None:
        relative = summary["relative_mce"]
        more = "" if relative is None else f", relative mCE {percent(relative)}"
        lines.append(f"mCE {percent(summary['mce'])}{more}.")
    return lines


def write_shifts(summary: Mapping[str, Any], out: str | Path, title: str) -> dict[str, Path]:
    """Write ``shifts.md`` and ``shifts.svg``.

    Args:
        summary: what ``analyses.shifts.shift_summary`` returned.
        out: folder, made if it is absent.
        title: of the page.

    Returns:
        {"md": path, "svg": path}.

    Raises:
        StoreError: if the folder cannot be written.
    """
    paths = {kind: Path(out) / f"shifts.{kind}" for kind in ("md", "svg")}
    page = render_shifts(summary, title) + "\n![Accuracy for each corruption and severity.](shifts.svg)\n"
    for kind, text in (("md", page), ("svg", heat_map(summary))):
        write_text(paths[kind], text)
    return paths
