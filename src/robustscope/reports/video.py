"""Robustness on videos as a page: accuracy against the number of frames, and worst frames beside their anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from robustscope.core.files import write_text
from robustscope.reports.figures import DASHES, SERIES, drawing, make_axes, to_svg
from robustscope.reports.formats import interval, number, percent
from robustscope.reports.formats import markdown as safe
from robustscope.reports.gallery import png
from robustscope.reports.html import page
from robustscope.reports.markdown import rate, table

NAMES = {"own": "labels of each frame", "anchor": "labels of the anchor"}
MOST_PICTURES = 12


def fallen(summary: Mapping[str, Any], most: int = MOST_PICTURES) -> list[dict[str, Any]]:
    """Return the anchors that are right themselves and wrong on a frame, the nearest such frame in pixels first.

    Args:
        summary: what ``analyses.video.video_summary`` returned.
        most: anchors.
    """
    found = [row for row in summary["worst"] if row["anchor_correct"] and not row["correct"]]
    return sorted(found, key=lambda row: (row.get("rms", 0.0), row["anchor"]))[:most]


def pm_figure(summary: Mapping[str, Any], name: str = "pm") -> str:
    """Draw pm-k accuracy against k, under both conventions, with 95 % bands.

    Args:
        summary: what ``analyses.video.video_summary`` returned.
        name: prefix of the ids inside the SVG.
    """
    with drawing():
        figure, axes = make_axes(6.0, 3.0)
        for index, labels in enumerate(NAMES):
            points = [(row["k"], row[labels]) for row in summary["curve"] if row[labels]["value"] is not None]
            x = [k for k, _ in points]
            colour, dashes = SERIES[index], DASHES[index]
            bands = ([p["low"] for _, p in points], [p["high"] for _, p in points])
            axes.fill_between(x, *bands, color=colour, alpha=0.14, lw=0)
            axes.plot(x, [p["value"] for _, p in points], color=colour, ls=dashes, lw=1.8, marker="os"[index], ms=4.5)
        axes.set(ylim=(0, 1.02), xlabel="k, frames before and after the anchor")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure, name, "pm-k accuracy against k")


def conditional_figure(summary: Mapping[str, Any], name: str = "conditional") -> str:
    """Draw accuracy against the distance in time, given that the anchor is right.

    Args:
        summary: what ``analyses.video.video_summary`` returned.
        name: prefix of the ids inside the SVG.
    """
    rows = summary["conditional"]
    with drawing():
        figure, axes = make_axes(6.0, 3.0)
        x = [row["distance"] for row in rows]
        if rows and rows[0]["low"] is not None:
            bands = ([row["low"] for row in rows], [row["high"] for row in rows])
            axes.fill_between(x, *bands, color=SERIES[0], alpha=0.14, lw=0)
        axes.plot(x, [row["value"] for row in rows], color=SERIES[0], lw=1.8, marker="o", ms=4.5)
        axes.set(ylim=(0, 1.02), xlabel="frames between anchor and frame")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return to_svg(figure, name, "Accuracy given a right anchor, against the distance in time")


def render_video(summary: Mapping[str, Any], title: str) -> str:
    """Return the Markdown of the page.

    Args:
        summary: what ``analyses.video.video_summary`` returned, with ``unreviewed`` (frames nobody has looked at).
        title: of the page.
    """
    head = ["Convention", f"pm-{summary['k']} accuracy"]
    body = [[text, rate(summary["pm"][labels])] for labels, text in NAMES.items()]
    blocks = [f"# Videos: {safe(title)}", *(safe(line) for line in sentences(summary)), table(head, body)]
    curve = [["k", *NAMES.values()]]
    curve += [[str(row["k"]), *(percent(row[labels]["value"]) for labels in NAMES)] for row in summary["curve"]]
    blocks += ["## Accuracy against k", table(curve[0], curve[1:])]
    rows = [
        [
            number(r["distance"]),
            percent(r["value"]),
            interval(r["low"], r["high"]),
            f"{number(r['k'])}/{number(r['n'])}",
        ]
        for r in summary["conditional"]
    ]
    if rows:
        head = ["Frames away", "Accuracy given a right anchor", "95 % interval", "Frames"]
        blocks += ["## Given that the anchor is right", table(head, rows)]
    return "\n\n".join(blocks) + "\n"


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return what the page says in words."""
    benign, k = summary["benign"], summary["k"]
    lines = [
        f"Benign accuracy {rate(benign)} of the anchors. pm-{k} asks for every frame at most {k} away as well; "
        f"{number(summary['frames'])} frames stand beside the {number(summary['n'])} anchors."
    ]
    drop = summary["drop"]
    if drop is None:
        lines.append("Some frames have no label of their own, so the first convention says nothing.")
    else:
        band = "" if drop["low"] is None else f" (95 % interval {interval(drop['low'], drop['high'])})"
        text = f"Under the {NAMES[summary['labels']]}, {percent(drop['value'])}{band} of the anchors are lost."
        mean = summary["neighbour"]
        lines.append(text + ("" if mean is None else f" A frame at random is classified right in {percent(mean)}."))
    if summary["alone"]:
        lines.append(f"{number(summary['alone'])} anchors have no frame beside them, and count as they are.")
    if summary["brittle"]["pairs"] and summary["brittle"]["linf"] is not None:
        lines.append(
            f"{number(summary['brittle']['pairs'])} frames are wrong beside a right anchor; the median of the largest "
            f"difference between the two is {number(summary['brittle']['linf'])}."
        )
    if summary["brittle"]["beyond"] is not None:
        lines.append(
            f"{percent(summary['brittle']['beyond'])} of these lie beyond the radius of the attack asked about."
        )
    if summary.get("unreviewed"):
        lines.append(
            f"Caution: nobody has looked at {number(summary['unreviewed'])} of these frames, so a change that people would "
            "see as well may count as a failure."
        )
    return lines


def write_video(
    summary: Mapping[str, Any],
    out: str | Path,
    title: str,
    pictures: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    class_names: Sequence[str] | None = None,
) -> dict[str, Path]:
    """Write ``video.md`` and ``video.html``, one self-contained page each.

    Args:
        summary: see :func:`render_video`.
        out: folder, made if it is absent.
        title: of the page.
        pictures: anchor and worst frame, (C, H, W) in [0, 1], for each row of :func:`fallen`.
        class_names: one for each class, or None.

    Returns:
        {"md": path, "html": path}.

    Raises:
        StoreError: if the folder cannot be written.
    """
    shown = [
        {**_said(row, class_names), "anchor_picture": png(anchor), "worst_picture": png(worst)}
        for row, (anchor, worst) in zip(fallen(summary), pictures, strict=False)
    ]
    text = page(
        "video.html.j2",
        title=title,
        summary=summary,
        sentences=sentences(summary),
        names=NAMES,
        pm_svg=Markup(pm_figure(summary)),
        conditional_svg=Markup(conditional_figure(summary)) if summary["conditional"] else None,
        pictures=shown,
    )
    paths = {kind: Path(out) / f"video.{kind}" for kind in ("md", "html")}
    for kind, content in (("md", render_video(summary, title)), ("html", text)):
        write_text(paths[kind], content)
    return paths


def _said(row: Mapping[str, Any], class_names: Sequence[str] | None) -> dict[str, Any]:
    prediction = int(row["prediction"])
    return {
        "name": row.get("name", f"frame {row['frame']}"),
        "offset": int(row["offset"]),
        "confidence": row.get("confidence"),
        "rms": row.get("rms"),
        "seen": class_names[prediction] if class_names else f"class {prediction}",
    }
