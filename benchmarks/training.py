"""Every training objective on scikit-learn's digits: trained, judged by `audited`, its verdict and cost; writes training.md.

python benchmarks/training.py [--objectives NAME ...] [--seeds 0 1 2] [--samples 500]

Rows that training.csv has already are kept; delete one to measure it again. One thread; minutes for each objective.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import robustscope
from robustscope.training import OBJECTIVES, Recipe, load_recipe
from robustscope.training.samples import open_samples

HERE = Path(__file__).resolve().parent
COLUMNS = (
    "objective",
    "seed",
    "parameters",
    "n",
    "clean",
    "robust",
    "certified",
    "verdict",
    "forward",
    "backward",
    "partial",
    "passes",
    "seconds",
)
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "free": {"epochs": 8},
    "ibp": {"epsilon_ramp": 0.5},
    "crown_ibp": {"epsilon_ramp": 0.5},
}
"""What an objective needs besides the recipe ``digits``: fewer epochs for replays, a certified network's schedule."""


def recipe_of(name: str, seed: int) -> Recipe:
    """Return the recipe of an objective: that of ``digits`` to its last epoch, with what the objective needs."""
    return load_recipe("digits", objective=name, seed=seed, best_by="last", **CHANGES.get(name, {}))


def measured(name: str, seed: int, samples: int) -> dict[str, Any]:
    """Train and judge one network."""
    recipe = recipe_of(name, seed)
    started = time.perf_counter()
    trained = robustscope.train(recipe)
    seconds = time.perf_counter() - started
    certify = "crown" if OBJECTIVES[name].kind == "certified" else "off"
    result = robustscope.evaluate(
        trained.module,
        "digits",
        recipe.threat,
        samples=str(samples),
        audit="off",
        curve=(),
        certify=certify,
        trust="32",
    )
    model = result.summary()["models"][0]
    threat = model["threats"][0]
    certified = threat["certified"]
    return {
        "objective": name,
        "seed": seed,
        "parameters": json.dumps(dict(CHANGES.get(name, {})), sort_keys=True),
        "n": model["n"],
        "clean": model["clean_accuracy"]["value"],
        "robust": threat["robust_accuracy"]["value"],
        "certified": certified[0]["value"] if certified else "",
        "verdict": threat["trust"]["verdict"],
        "forward": trained.passes.forward,
        "backward": trained.passes.backward,
        "partial": trained.passes.partial,
        "passes": max(trained.passes.forward, trained.passes.backward) / count(recipe),
        "seconds": round(seconds, 2),
    }


def count(recipe: Recipe) -> int:
    """Return the number of samples that are trained on."""
    return len(open_samples(recipe, None, torch.device("cpu")).ids)


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows that are there."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []


def write(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Write all rows, sorted."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (str(row["objective"]), int(row["seed"]))))


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as Markdown: mean over seeds, least and most in brackets."""
    lines = [
        "| Objective | Kind | Seeds | Clean % | Robust % | Certified % | Trusted | Passes | Seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["objective"] for row in rows):
        mine = [row for row in rows if row["objective"] == name]
        cells = [
            spread([100 * float(row[key]) for row in mine if row[key]]) for key in ("clean", "robust", "certified")
        ]
        trusted = sum(row["verdict"] == "trust" for row in mine)
        passes, seconds = (mean(float(row[key]) for row in mine) for key in ("passes", "seconds"))
        kind = OBJECTIVES[name].kind
        lines.append(
            f"| [`{name}`](../docs/methods/train-{name}.md) | {kind} | {len(mine)} | {' | '.join(cells)} | {trusted} of {len(mine)} | "
            f"{passes:.0f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return mean, least and most."""
    return f"{mean(values):.1f} ({min(values):.1f}-{max(values):.1f})" if values else "–"


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objectives", nargs="*", default=[card.name for card in OBJECTIVES])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=HERE / "training.csv")
    asked = parser.parse_args()
    rows: list[Any] = read(asked.out)
    there = {(row["objective"], int(row["seed"])) for row in rows}
    for seed in asked.seeds:
        for name in asked.objectives:
            if (name, seed) not in there:
                rows.append(measured(name, seed, asked.samples))
                write(asked.out, rows)
                print(rows[-1], flush=True)
    base = dataclasses.asdict(recipe_of("standard", 0))
    facts = ", ".join(f"{key} {base[key]}" for key in ("model", "epochs", "batch_size", "optimizer", "learning_rate"))
    text = (
        "# Training objectives on digits\n\n"
        "`python benchmarks/training.py`: every objective by the recipe `digits` "
        f"({facts}, {base['threat']}); mean (least-most) over seeds. Robust accuracy is "
        f"that of the suite `audited` on {asked.samples} test samples without audit, certified accuracy that of CROWN; *trusted* "
        "is how many verdicts are *trust*. A pass is one row for each training sample, forward or backward, whichever is more. "
        "Seconds are those of a shared machine.\n\n"
    )
    page = HERE / "training.md"
    old = page.read_text(encoding="utf-8").partition("\n## ")[1:] if page.is_file() else ("", "")
    page.write_text(f"{text}{table(read(asked.out))}\n{''.join(old)}", encoding="utf-8")


if __name__ == "__main__":
    main()
