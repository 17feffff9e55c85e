"""Prune digits networks while they are trained, up to where nothing is left, and see what accuracy and robustness do.

For each objective, share of pruned weights and seed: clean accuracy, accuracy under PGD, and the median distance to the
nearest adversarial example that DeepFool finds for the samples that are classified correctly.

    OMP_NUM_THREADS=1 python benchmarks/sparsity.py sparsity.csv
    OMP_NUM_THREADS=1 python benchmarks/sparsity.py sparsity.csv --table

See sparsity.md in this folder for what was measured.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from pathlib import Path

import torch

import robustscope
from robustscope.training import Recipe, Sparsity, train
from robustscope.training.sparsity import sparsity

THREAT = "linf:0.15"
AMOUNTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
COLUMNS = ["objective", "method", "amount", "seed", "zeros", "clean", "pgd", "radius_l2", "radius_linf"]


def recipe(objective: str, method: str, amount: float, seed: int, epochs: int) -> Recipe:
    """Return the training of one network: two hidden layers of 256, pruned between a tenth and a half of the epochs."""
    return Recipe(
        data="digits#train",
        objective=objective,
        threat=THREAT,
        model="perceptron",
        model_parameters={"hidden": [256, 256]},
        validation=50,
        epochs=epochs,
        optimizer="adam",
        learning_rate=3e-3,
        weight_decay=0.0,
        schedule_parameters={"peak": 0.4},
        validation_steps=1,
        best_by="last",
        seed=seed,
        sparsity=Sparsity(amount, method=method, begin=0.1, end=0.5),
    )


def measure(plan: Recipe, samples: int) -> dict[str, float]:
    """Train one network and measure it on test samples."""
    module = train(plan).module
    model = robustscope.Classifier(module)
    data = robustscope.load_data("digits#test")
    x, y = data.read(range(len(data))), torch.as_tensor(data.labels)
    right = model.logits(x).argmax(1) == y
    pgd = robustscope.attack("pgd", model, x, y, THREAT, steps=50, relative_step_size=0.1, restarts=2)
    row = {
        "zeros": sparsity(module),
        "clean": right.double().mean().item(),
        "pgd": (right & ~pgd.verdict.success).double().mean().item(),
    }
    few = right.nonzero()[:samples, 0]
    for norm in ("l2", "linf"):
        verdict = robustscope.attack("deepfool", model, x[few], y[few], f"{norm}:inf").verdict
        length = verdict.distance.masked_fill(~verdict.success, torch.inf)  # none found: beyond every other
        row[f"radius_{norm}"] = length.median().item() if len(few) else float("nan")
    return row


def run(out: Path, objectives: list[str], methods: list[str], seeds: int, epochs: int, samples: int) -> None:
    """Measure all networks that are not in the file yet."""
    done = {tuple(row[name] for name in COLUMNS[:4]) for row in _read(out)} if out.exists() else set()
    for objective in objectives:
        for method in methods:
            for amount in AMOUNTS:
                for seed in range(seeds):
                    if (objective, method, str(amount), str(seed)) in done:
                        continue
                    row = measure(recipe(objective, method, amount, seed, epochs), samples)
                    with out.open("a", newline="", encoding="utf-8") as file:
                        writer = csv.DictWriter(file, COLUMNS)
                        if not file.tell():
                            writer.writeheader()
                        named = {"objective": objective, "method": method, "amount": amount, "seed": seed}
                        writer.writerow(named | {name: f"{value:.6g}" for name, value in row.items()})


def _read(out: Path) -> list[dict[str, str]]:
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(out: Path) -> str:
    """Return the means over seeds, with their ranges, as a Markdown table."""
    rows = _read(out)
    lines = [
        "| objective | method | pruned | clean % | PGD % | median radius l2 | linf |",
        "|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["objective"], row["method"], row["amount"]) for row in rows):
        group = [row for row in rows if (row["objective"], row["method"], row["amount"]) == key]
        clean, pgd = (_spread([100 * float(row[name]) for row in group], 1) for name in ("clean", "pgd"))
        two, most = (_spread([float(row[f"radius_{norm}"]) for row in group], 3) for norm in ("l2", "linf"))
        lines.append(f"| {key[0]} | {key[1]} | {100 * float(key[2]):g} % | {clean} | {pgd} | {two} | {most} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", action="store_true", help="show what the file holds")
    parser.add_argument("--objectives", nargs="+", default=["standard", "fast"])
    parser.add_argument("--methods", nargs="+", default=["magnitude"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--samples", type=int, default=200, help="of DeepFool")
    given = parser.parse_args()
    if given.table:
        sys.stdout.write(table(given.out) + "\n")
        return
    torch.set_num_threads(1)
    run(given.out, given.objectives, given.methods, given.seeds, given.epochs, given.samples)


if __name__ == "__main__":
    main()
