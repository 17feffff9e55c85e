"""The record of a training as a page: curves, epochs, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from robustscope.core.errors import CorruptRun, MissingFile
from robustscope.core.files import RESTORE, read_json, write_text
from robustscope.reports.figures import INK, SERIES, drawing, make_axes, to_svg
from robustscope.reports.formats import markdown as safe
from robustscope.reports.formats import number, percent
from robustscope.reports.html import page
from robustscope.reports.markdown import table

CURVES = (("clean", SERIES[0], "-"), ("fgsm", SERIES[1], (0, (5, 2))), ("robust", SERIES[2], "-"))
LABELS = {"clean": "clean", "fgsm": "FGSM", "robust": "PGD"}


def read_training(folder: str | Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the record and the history of a training.

    Raises:
        MissingFile, CorruptRun: if the folder holds no finished training.
    """
    place = Path(folder)
    record = read_json(place / "training.json")
    history = place / "history.csv"
    if not history.is_file():
        raise MissingFile(f"{history} does not exist", "the folder of a training is allowed", "Check the path.")
    try:
        return record, pd.read_csv(history, dtype={"remark": str})
    except (ValueError, OSError) as error:
        raise CorruptRun(f"{history} cannot be read ({error})", "the file as written is allowed", RESTORE) from error


def training_figure(history: pd.DataFrame, best: int | None, name: str = "training") -> str:
    """Draw clean, FGSM and PGD accuracy on held-out samples over the epochs, undone epochs as crosses.

    Args:
        history: rows of the history.
        best: epoch whose weights were kept, marked by a vertical line.
        name: prefix of the ids inside the SVG.
    """
    undone = history["undone"].fillna(False).astype(bool) if "undone" in history else pd.Series(False, history.index)
    kept = history[~undone]
    with drawing():
        figure, axes = make_axes(6.0, 3.3)
        for column, colour, dashes in CURVES:
            axes.plot(kept["epoch"], kept[column], color=colour, ls=dashes, lw=1.8, label=LABELS[column])
            axes.scatter(history["epoch"][undone], history[column][undone], marker="x", s=26, c=colour, lw=1.4)
        if best is not None:
            axes.axvline(best, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=1)
        axes.set(ylim=(0, 1.02), xlabel="epoch", ylabel="held-out accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        return to_svg(figure, name, "Clean, FGSM and PGD accuracy on held-out samples over the epochs")


def cost(record: Mapping[str, Any], history: pd.DataFrame) -> dict[str, Any]:
    """Return the cost ledger: passes over the training set, seconds, memory, and robust accuracy per pass.

    A pass is one row forward and backward for each training sample; of forward and backward the larger counts.
    """
    rows, samples = record["passes"], record["samples"]
    passes = max(rows["forward"], rows["backward"]) / samples
    best = record["best"] or {}
    return {
        **rows,
        "passes": passes,
        "passes_per_epoch": passes / max(1, len(history)),
        "seconds": float(history["seconds"].sum()),
        "peak_bytes": int(history["peak_bytes"].max()),
        "robust": best.get("robust"),
        "robust_per_pass": best["robust"] / passes if best and passes else None,
    }


def _lines(record: Mapping[str, Any], history: pd.DataFrame) -> list[str]:
    """Return what the page says in sentences."""
    spent, best, recipe = cost(record, history), record["best"] or {}, record["recipe"]
    lines = []
    if record["stopped"]:
        lines.append(f"Stopped: {record['stopped']}.")
    if best:
        lines.append(
            f"The weights are those of epoch {best['epoch']}: {percent(best['clean'])} clean, {percent(best['fgsm'])} "
            f"after FGSM, {percent(best['robust'])} after PGD-{recipe['validation_steps']} on "
            f"{number(record['held_out'])} held-out samples. That is how the training was watched, and the epoch was "
            "chosen by it: robustscope evaluate gives the verdict."
        )
    lines.append(
        f"Cost: {number(spent['forward'])} rows forward and {number(spent['backward'])} backward"
        + (f", {number(spent['partial'])} through the first layer alone" if spent["partial"] else "")
        + f", that is {spent['passes']:.1f} passes over {number(record['samples'])} samples "
        f"({spent['passes_per_epoch']:.2f} for each epoch); {spent['seconds']:.0f} s; at most "
        f"{spent['peak_bytes'] / 2**20:.0f} MiB on {record['device']}."
    )
    if spent["robust_per_pass"] is not None:
        lines.append(f"Robust accuracy for each pass: {100 * spent['robust_per_pass']:.2f} percentage points.")
    return lines


def remarks(history: pd.DataFrame) -> list[tuple[int, str]]:
    """Return epochs with a remark: alarms and stalls."""
    found = history["remark"].fillna("") if "remark" in history else pd.Series("", history.index)
    return [(int(epoch), str(text)) for epoch, text in zip(history["epoch"], found, strict=True) if text]


def _epochs(history: pd.DataFrame) -> list[list[str]]:
    return [
        [
            str(int(row["epoch"])),
            f"{row['learning_rate']:.4g}",
            f"{row['epsilon']:.4g}",
            f"{row['loss']:.4f}",
            *(percent(row[name]) for name in ("clean", "fgsm", "robust")),
            "–" if pd.isna(row["alignment"]) else f"{row['alignment']:.3f}",
            f"{row['seconds']:.1f}",
            number(int(row["backward"])),
        ]
        for row in history.to_dict("records")
    ]


HEAD = ("Epoch", "Rate", "Epsilon", "Loss", "Clean", "FGSM", "PGD", "Alignment", "Seconds", "Rows backward")


def render_training(record: Mapping[str, Any], history: pd.DataFrame) -> str:
    """Return the record of a training as Markdown."""
    blocks = [f"# Training: {safe(_title(record))}", *map(safe, _lines(record, history))]
    noted = remarks(history)
    if noted:
        blocks.append("\n".join(f"- epoch {epoch}: {safe(text)}" for epoch, text in noted))
    blocks.append(table(list(HEAD), _epochs(history)))
    recipe = [[safe(key), safe(str(value))] for key, value in record["recipe"].items()]
    blocks += ["## Recipe", table(["Key", "Value"], recipe)]
    return "\n\n".join(blocks) + "\n"


def _title(record: Mapping[str, Any]) -> str:
    recipe = record["recipe"]
    return f"{recipe['objective']} on {recipe['data']}, {recipe['threat']}"


def write_training_report(folder: str | Path) -> Path:
    """Write ``report.html`` and ``report.md`` beside the record of a training; return the page.

    Raises:
        MissingFile, CorruptRun: if the folder holds no finished training.
        StoreError: if it cannot be written.
    """
    place = Path(folder)
    record, history = read_training(place)
    best = (record["best"] or {}).get("epoch")
    text = page(
        "training.html.j2",
        title=_title(record),
        record=record,
        lines=_lines(record, history),
        remarks=remarks(history),
        figure=Markup(training_figure(history, best)),
        head=HEAD,
        epochs=_epochs(history),
    )
    write_text(place / "report.md", render_training(record, history))
    write_text(place / "report.html", text)
    return place / "report.html"


__all__: Sequence[str] = ("cost", "read_training", "render_training", "training_figure", "write_training_report")
