"""Adversarial training on MNIST and CIFAR-10 in minutes: objectives side by side, judged alike, with their cost; prints a table.

python benchmarks/training_pictures.py mnist|cifar10 [--objectives NAME ...] [--shared ../shared] [--runs FOLDER]

Rows that training_pictures.csv has already are kept; delete one to measure it again. A training that was interrupted goes on
where it ended if its run folder is kept. One thread; a minute to a quarter of an hour for each, on an idle core.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import robustscope
from robustscope.training import Recipe, load_recipe
from training import HERE, count, read

MNIST = "mnist:{shared}/data/mnist"
CIFAR10 = "cifar10:{shared}/data/cifar10/cifar-10-binary-jpegdecoded.tar.xz"
SMALL: Mapping[str, Any] = {"samples": 5000, "epochs": 8, "validation": 500}
RECIPES: Mapping[str, Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "mnist": {"fast": ("mnist-fast", {}), "free": ("mnist-free-small", {}), "pgd": ("mnist-pgd-small", {})},
    "cifar10": {
        "standard": ("cifar10-fast-small", {**SMALL, "objective": "standard"}),
        "fast": ("cifar10-fast-small", SMALL),
        "pgd": ("cifar10-fast-small", {**SMALL, "objective": "pgd", "parameters": {"steps": 7}}),
        "trades": ("cifar10-fast-small", {**SMALL, "objective": "trades", "parameters": {"steps": 7}}),
    },
}
"""Recipe of each objective, and what is changed in it."""
COLUMNS = (
    "data",
    "threat",
    "objective",
    "passes",
    "seconds",
    "clean",
    "pgd",
    "pgd_n",
    "audited",
    "audited_n",
    "verdict",
)
PGD = "pgd:steps=50,restarts=10,relative_step_size=0.1"


def recipe_of(table: str, name: str, shared: Path) -> Recipe:
    """Return the recipe of one row."""
    recipe, changes = RECIPES[table][name]
    return load_recipe(recipe, data=source(table, shared, "train"), threads=1, **changes)


def source(table: str, shared: Path, split: str) -> str:
    """Return the name of a data set."""
    return f"{ {'mnist': MNIST, 'cifar10': CIFAR10}[table].format(shared=shared) }#{split}"


def measured(table: str, name: str, shared: Path, runs: Path) -> dict[str, Any]:
    """Train and judge one network."""
    recipe = recipe_of(table, name, shared)
    trained = robustscope.train(recipe, runs / f"{table}-{name}")
    test = source(table, shared, "test")
    given = {"audit": "off", "curve": (), "mean": recipe.mean, "std": recipe.std}
    weak = robustscope.evaluate(trained.module, test, recipe.threat, attacks=PGD, samples="1000", trust="off", **given)
    strong = robustscope.evaluate(trained.module, test, recipe.threat, samples="200", trust="16", **given)
    one, other = (result.summary()["models"][0] for result in (weak, strong))
    passes = trained.passes
    return {
        "data": table,
        "threat": recipe.threat,
        "objective": name,
        "passes": f"{max(passes.forward, passes.backward) / count(recipe):.4g}",
        "seconds": round(sum(row["seconds"] for row in trained.history)),
        "clean": interval(one["clean_accuracy"]),
        "pgd": interval(one["threats"][0]["robust_accuracy"]),
        "pgd_n": one["n"],
        "audited": interval(other["threats"][0]["robust_accuracy"]),
        "audited_n": other["n"],
        "verdict": other["threats"][0]["trust"]["verdict"],
    }


def interval(accuracy: Mapping[str, float]) -> str:
    """Return an accuracy and its 95 % interval in percent."""
    value, low, high = (100 * accuracy[key] for key in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f}-{high:.1f})"


def table_of(rows: list[Mapping[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| Objective | Clean % | PGD-50, 10 restarts % | `audited` % | Trust | Passes | Seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row['objective']}` | {row['clean']} | {row['pgd']} | {row['audited']} | {row['verdict']} | {row['passes']} | {row['seconds']} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=tuple(RECIPES))
    parser.add_argument("--objectives", nargs="*", default=[])
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "training-pictures")
    parser.add_argument("--out", type=Path, default=HERE / "training_pictures.csv")
    asked = parser.parse_args()
    rows: list[Any] = read(asked.out)
    for name in asked.objectives or RECIPES[asked.table]:
        if (asked.table, name) not in {(row["data"], row["objective"]) for row in rows}:
            rows.append(measured(asked.table, name, asked.shared, asked.runs))
            with asked.out.open("w", encoding="utf-8", newline="") as handle:
                writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    print(table_of([row for row in rows if row["data"] == asked.table]))


if __name__ == "__main__":
    main()
