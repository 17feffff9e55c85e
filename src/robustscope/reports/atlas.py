"""The atlas: all claims that were tested, with verdicts, effects, rules and pictures, as a page and as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from robustscope.core.errors import CorruptRun, MissingFile
from robustscope.core.files import RESTORE, read_json, write_text
from robustscope.reports.figures import INK, SERIES, drawing, make_axes, series, to_svg
from robustscope.reports.formats import duration, number
from robustscope.reports.formats import markdown as safe
from robustscope.reports.html import page
from robustscope.reports.tables import table

Record = dict[str, Any]
VERDICTS = ("supported", "inconclusive", "contradicted")
STYLE = {"supported": "trust", "inconclusive": "doubt", "contradicted": "distrust"}
"""Which of the colours of the style sheet a verdict has."""
_KEYS = ("claim", "about", "rules", "effects", "verdict", "verdicts", "tables", "plots", "versions", "parameters")
MOST_ROWS = 60
"""Rows of a table that a page shows; the record holds all."""


def read_claims(folder: str | Path) -> list[Record]:
    """Return the records of claims of a folder, in the order of the survey's topics, then of their names.

    Raises:
        MissingFile: if there is none.
        CorruptRun: for a file that is no record.
    """
    paths = sorted((Path(folder) / "claims").glob("*.json"))
    if not paths:
        raise MissingFile(
            f"{folder} holds no tested claim", "the folder of `robustscope claims run` is allowed", "Run a claim first."
        )
    records = []
    for path in paths:
        record = read_json(path)
        absent = [key for key in _KEYS if key not in record]
        if absent:
            raise CorruptRun(f"{path} has no {absent[0]!r}", "the file as written is allowed", RESTORE)
        words = {name: text.replace("`", "") for name, text in record["about"].items()}  # Markdown of docstrings
        records.append({**record, "about": words})
    return records


def write_atlas(
    folder: str | Path, topics: Sequence[str], failed: Mapping[str, str] | None = None, command: str = ""
) -> Path:
    """Write ``atlas.html`` and ``atlas.md`` into a folder of tested claims; return the page.

    Args:
        folder: of the claims.
        topics: in the order in which they are shown.
        failed: name -> reason, of claims that could not be tested; they are told.
        command: what was given to run them.

    Raises:
        MissingFile, CorruptRun: if the folder holds no claims, or something else.
        StoreError: if it cannot be written.
    """
    place = Path(folder)
    records = sorted(read_claims(place), key=lambda record: (_rank(record, topics), record["claim"]))
    context = {"records": records, "topics": _by_topic(records), "failed": dict(failed or {}), "command": command}
    text = page(
        "atlas.html.j2",
        **context,
        counts=Counter(record["verdict"] for record in records),
        verdicts=VERDICTS,
        style=STYLE,
        effects={record["claim"]: effect_rows(record) for record in records},
        scales={record["claim"]: _scales(record) for record in records},
        figures={record["claim"]: _figures(record) for record in records},
        shown={record["claim"]: _shown(record) for record in records},
        facts=facts(records),
    )
    write_text(place / "atlas.md", render_atlas(records, failed or {}, command))
    write_text(place / "atlas.html", text)
    return place / "atlas.html"


def _rank(record: Record, topics: Sequence[str]) -> int:
    topic = record["about"]["topic"]
    return topics.index(topic) if topic in topics else len(topics)


def _by_topic(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["about"]["topic"], []).append(record)
    return found


def effect_rows(record: Record) -> list[dict[str, Any]]:
    """Return one row for each rule: its words, the effect and its interval as texts, and what it says."""
    rows = []
    for rule in record["rules"]:
        effect = record["effects"][rule["effect"]]
        exact = effect["unit"] == "exact"
        rows.append(
            {
                "effect": rule["effect"].replace("_", " "),
                "meaning": rule["meaning"],
                "rule": f"{rule['side']} {number(rule['threshold'])}",
                "value": number(effect["value"]),
                "interval": "exact" if exact else f"{number(effect['low'])} to {number(effect['high'])}",
                "n": "" if exact else f"{effect['n']} {effect['unit']}",
                "verdict": record["verdicts"][rule["effect"]],
            }
        )
    return rows


def facts(records: Sequence[Record]) -> dict[str, str]:
    """Return what all records have in common: versions, revisions, seeds, time."""
    versions = {f"{name} {version}" for record in records for name, version in record["versions"].items()}
    states = {(state["revision"][:12], state["dirty"]) for record in records if (state := record.get("git"))}
    return {
        "versions": ", ".join(sorted(versions)),
        "revision": ", ".join(f"{name}{' with changes' if dirty else ''}" for name, dirty in sorted(states))
        or "unknown",
        "seeds": ", ".join(sorted({str(record["seed"]) for record in records})),
        "time": duration(sum(record["seconds"] for record in records)),
    }


def _scales(record: Record) -> list[Markup]:
    return [
        Markup(scale_figure(rule, record["effects"][rule["effect"]], f"{record['claim']}-scale-{place}"))
        for place, rule in enumerate(record["rules"])
    ]


def _figures(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "title": plot["title"],
            "svg": Markup(claim_figure(plot, record["tables"][plot["table"]], f"{record['claim']}-{place}")),
        }
        for place, plot in enumerate(record["plots"])
        if record["tables"][plot["table"]]
    ]


def _shown(record: Record) -> list[dict[str, Any]]:
    """Return the tables of a record as they are shown."""
    return [
        {
            "name": name,
            "columns": list(rows[0]),
            "rows": [
                [number(value) if _numeric(value) else str(value) for value in row.values()] for row in rows[:MOST_ROWS]
            ],
            "more": max(0, len(rows) - MOST_ROWS),
        }
        for name, rows in record["tables"].items()
        if rows
    ]


def _numeric(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def scale_figure(rule: Mapping[str, Any], effect: Mapping[str, Any], name: str) -> str:
    """Draw an effect and its interval on a line, with the sizes at which it supports and contradicts.

    Args:
        rule: of the effect.
        effect: value, low, high.
        name: prefix of the ids inside the SVG.
    """
    refuted = rule["threshold"] if rule["refuted"] is None else rule["refuted"]
    marks = [rule["threshold"], refuted, effect["low"], effect["high"], effect["value"]]
    low, high = min(marks), max(marks)
    room = 0.12 * (high - low) or max(abs(low), 1.0) * 0.1
    with drawing():
        figure, axes = make_axes(4.6, 0.75)
        axes.grid(visible=False)
        axes.axvline(rule["threshold"], color=SERIES[2], lw=2.2)
        if refuted != rule["threshold"]:
            axes.axvline(refuted, color=SERIES[7], lw=2.2)
        axes.plot([effect["low"], effect["high"]], [0, 0], color=INK, lw=3, solid_capstyle="butt")
        axes.plot(effect["value"], 0, "o", color=INK, ms=7)
        axes.set(xlim=(low - room, high + room), ylim=(-1, 1), yticks=[])
        axes.tick_params(axis="x", labelsize=8)
        return to_svg(figure, name, f"{rule['effect']}: {number(effect['value'])}")


def claim_figure(plot: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Draw a table of a claim as its plot says.

    Args:
        plot: kind, columns, title; what ``claims.Plot`` holds.
        rows: of its table.
        name: prefix of the ids inside the SVG.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row[plot["x"]] is not None and row[plot["y"]] is not None:
            groups.setdefault(str(row[plot["by"]]) if plot["by"] else "", []).append(row)
    names = list(dict.fromkeys(str(row[plot["x"]]) for group in groups.values() for row in group))
    words = plot["kind"] == "bars" or any(not _numeric(row[plot["x"]]) for group in groups.values() for row in group)
    with drawing():
        figure, axes = make_axes(6.0, 3.4)
        for place, (label, group) in enumerate(groups.items()):
            x = np.array([names.index(str(row[plot["x"]])) if words else row[plot["x"]] for row in group], dtype=float)
            y = np.array([row[plot["y"]] for row in group], dtype=float)
            draw = {"bars": _bars, "lines": _line, "points": _points}[plot["kind"]]
            draw(axes, x, y, place, len(groups), label)
        if words:
            long = max(map(len, names), default=0) * len(names) > 60
            axes.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")
        for axis in plot["logarithmic"]:
            getattr(axes, f"set_{axis}scale")("log")
        axes.set(xlabel="" if words else plot["x"].replace("_", " "), ylabel=plot["y"].replace("_", " "))
        if plot["by"]:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8.5)
        return to_svg(figure, name, plot["title"] or plot["table"])


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, place: int, groups: int, label: str) -> None:
    """Draw the mean over rows of one x as a line, and each row as a point."""
    colour, dashes, marker = series(place)
    at = np.unique(x)
    axes.plot(at, [y[x == value].mean() for value in at], color=colour, ls=dashes, lw=1.8, label=label)
    axes.plot(x, y, marker, color=colour, ms=3.5, alpha=0.7)


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, place: int, groups: int, label: str) -> None:
    colour, _, marker = series(place)
    axes.plot(x, y, marker, color=colour, ms=5.5, label=label, mec="white", mew=0.5)


def _bars(axes: Axes, x: np.ndarray, y: np.ndarray, place: int, groups: int, label: str) -> None:
    """Draw the mean over rows of one x as a bar, and each row as a point."""
    width = 0.8 / groups
    shift = (place - (groups - 1) / 2) * width
    at = np.unique(x)
    axes.bar(at + shift, [y[x == value].mean() for value in at], 0.9 * width, color=series(place)[0], label=label)
    if len(at) < len(x):
        axes.plot(x + shift, y, "o", color=INK, ms=3)


def render_atlas(records: Sequence[Record], failed: Mapping[str, str], command: str = "") -> str:
    """Return the atlas as Markdown: one table for each topic, and what explains each verdict."""
    counts = Counter(record["verdict"] for record in records)
    blocks = [
        "# Atlas of claims",
        f"{len(records)} published findings, tested by protocols whose rules were fixed before the run: "
        + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
        + ".",
    ]
    told = facts(records)
    blocks.append(
        (f"Command: `{command}`. " if command else "")
        + f"Revision {safe(told['revision'])}; {safe(told['versions'])}; seed {told['seeds']}; {told['time']} when "
        "networks and attacks that claims share are counted for each."
    )
    blocks += [f"- **{safe(name)}** could not be tested: {safe(why)}" for name, why in failed.items()]
    for topic, group in _by_topic(records).items():
        blocks.append(f"## {topic.capitalize()}")
        rows = [
            [
                f"`{record['claim']}`" if place == 0 else "",
                safe(record["about"]["finding"]) if place == 0 else "",
                f"**{record['verdict']}**" if place == 0 else "",
                f"{safe(row['effect'])}: {row['value']} ({row['interval']}), supported {row['rule']}; {safe(row['meaning'])}",
            ]
            for record in group
            for place, row in enumerate(effect_rows(record))
        ]
        blocks.append(table(["Claim", "Finding", "Verdict", "Effect (95 % interval), rule"], rows))
        for record in group:
            if record["verdict"] != "supported" and record["about"]["caveats"]:
                blocks.append(f"`{record['claim']}`: {safe(record['about']['caveats'])}")
    return "\n\n".join(blocks) + "\n"
