"""Catastrophic overfitting of a real network: what brings it about, how soon the alarm goes off, what rolling back saves.

python benchmarks/catastrophic.py [--shared ../shared] [--only RUN ...]

A network that Wong, Rice and Kolter trained by PGD on MNIST at 0.3 is trained on, on 2,000 samples, by objectives that take one
step (and by PGD, to compare). What held-out samples say after each epoch goes into catastrophic.csv; prints the table of it. Runs
that are there are kept. A minute for each on one core.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import robustscope
from robustscope.training import Recipe
from training import HERE, read

BASE = Recipe(
    data="",
    threat="linf:0.3",
    samples=2500,
    validation=500,
    epochs=4,
    batch_size=100,
    optimizer="adam",
    learning_rate=5e-3,
    weight_decay=0.0,
    schedule="flat",
    threads=1,
)
ROLLBACK = {"alarm": "rollback", "alarm_every": 5}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "fgsm": {"objective": "fgsm"},
    "fgsm, rolled back": {"objective": "fgsm", **ROLLBACK},
    "fgsm, lower rate": {"objective": "fgsm", "learning_rate": 2e-3},
    "fgsm, lower rate, rolled back": {"objective": "fgsm", "learning_rate": 2e-3, **ROLLBACK},
    "fast from the sample, 4 epsilon": {"parameters": {"start": "sample", "relative_step_size": 4.0}},
    "fast, 4 epsilon": {"parameters": {"relative_step_size": 4.0}},
    "fast": {},
    "fast from outside the bounds": {"parameters": {"start_inside_bounds": False}},
    "grad_align, 0.2": {"objective": "grad_align", "parameters": {"weight": 0.2}},
    "grad_align, 4": {"objective": "grad_align", "parameters": {"weight": 4.0}},
    "grad_align, 20": {"objective": "grad_align", "parameters": {"weight": 20.0}},
    "pgd, 7 steps": {"objective": "pgd", "parameters": {"steps": 7}},
}
COLUMNS = ("run", "epoch", "attempt", "learning_rate", "clean", "fgsm", "robust", "alignment", "remark")


def recipe_of(run: str, shared: Path) -> Recipe:
    """Return the recipe of a run."""
    network, data = shared / "models" / "mnist_fastat_pgd_madry.json", shared / "data" / "mnist"
    return dataclasses.replace(BASE, data=f"mnist:{data}#train", model=str(network), **RUNS[run])


def logged(run: str, shared: Path) -> list[dict[str, Any]]:
    """Train, and return what the loop told its trackers: epochs and returns to what was before; last, what it has kept."""
    rows: list[dict[str, Any]] = []
    trained = robustscope.train(recipe_of(run, shared), trackers=[rows.append])
    kept = {**trained.best, "epoch": "kept", "remark": trained.stopped}
    return [{"run": run, **{name: row.get(name, "") for name in COLUMNS[1:]}} for row in [*rows, kept]]


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return one line for each run: accuracy after FGSM and PGD-10 at the end of each epoch, alarms, and what is kept."""
    lines = ["| Run | FGSM / PGD-10 %, epochs 1 to 4 | First alarm | Kept |", "| --- | --- | --- | --- |"]
    for run in dict.fromkeys(row["run"] for row in rows):
        mine = [row for row in rows if row["run"] == run]
        ends = [f"{_percent(row['fgsm'])} / {_percent(row['robust'])}" for row in mine if row["fgsm"]]
        alarms = [row["remark"] or "" for row in mine if row["remark"] and row["epoch"] != "kept"]
        first = alarms[0].partition(": ")[0] if alarms and alarms[0].startswith("rolled") else ""
        if alarms and not first:
            first = next(f"epoch {row['epoch']}" for row in mine if row["remark"])
        lines.append(f"| {run} | {', '.join(ends[:-1])} | {first or '–'} | {ends[-1]} |")
    return "\n".join(lines)


def _percent(share: str) -> str:
    return f"{100 * float(share):.0f}"


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    parser.add_argument("--out", type=Path, default=HERE / "catastrophic.csv")
    asked = parser.parse_args()
    rows: list[Any] = read(asked.out)
    for run in asked.only:
        if run not in {row["run"] for row in rows}:
            rows += logged(run, asked.shared)
            with asked.out.open("w", encoding="utf-8", newline="") as handle:
                writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    print(table_of(read(asked.out)))


if __name__ == "__main__":
    main()
