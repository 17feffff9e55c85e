"""Ilyas et al.'s data sets of features, on scikit-learn's digits: what networks learn from them.

    python benchmarks/features.py            tables in Markdown, on the terminal
    python benchmarks/features.py --quick    one seed, shorter walks

Source networks: fully connected, trained by one-cycle Adam for 60 epochs, one of them on PGD examples (l2 0.5, 7 steps). From each, a data set
of inverted features (starts are other digits; 1,000 steps of l2 0.1); from the standard one, data sets moved towards random
labels and towards the next class (100 steps of l2 0.1). On each, a new network is trained in the standard way, and judged on the 500
real test digits. One process, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from small_nets import mlp, train

from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.datasets import load_data
from robustscope.models.classifier import Classifier
from robustscope.probes.why.feature_inversion import FeatureSet, inverted_set, targeted_set

EPOCHS = 60
ADVERSARY = (ThreatModel("l2", 0.5), 7)
JUDGES = (ThreatModel("linf", 0.1), ThreatModel("l2", 0.5))
Row = dict[str, float]


def digits(split: str) -> tuple[Tensor, Tensor]:
    """Inputs and classes of a split."""
    data = load_data(f"digits#{split}")
    return data.read(range(len(data))), torch.from_numpy(data.labels)


def robust(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel) -> float:
    """Share of samples that are correct and withstand PGD of 40 steps with three restarts."""
    found = attack("pgd", model, x, y, threat, steps=40, restarts=3)
    return float((~found.verdict.success & (model.decisions(x) == y)).double().mean())


def judged(hidden: tuple[int, ...], x: Tensor, y: Tensor, seed: int, epochs: int) -> Row:
    """Train in the standard way, and judge on real digits."""
    return scores(Classifier(train(mlp(hidden), x, y, epochs=epochs, seed=seed)))


def scores(model: Classifier) -> Row:
    """Accuracy, that on the next class, and robust accuracies, on real digits."""
    test, true = digits("test")
    decisions = model.decisions(test)
    row = {"clean": float((decisions == true).double().mean())}
    row["next"] = float((decisions == (true + 1) % 10).double().mean())
    return row | {str(i): robust(model, test, true, threat) for i, threat in enumerate(JUDGES)}


def made(found: FeatureSet, hidden: tuple[int, ...], seed: int, epochs: int) -> Row:
    """Judge a data set, with what its making reports."""
    return judged(hidden, found.x, found.y, seed + 100, epochs) | {
        f"set {name}": value for name, value in found.report().items()
    }


def measure(seed: int, widths: Sequence[int], radii: Sequence[float], quick: bool) -> dict[str, Row]:
    """All rows of one seed."""
    x, y = digits("train")
    epochs, steps, walk = (15, 30, 100) if quick else (EPOCHS, 100, 1000)
    draws = Draws(seed, range(len(x)), "features")
    rows: dict[str, Row] = {}
    for width in widths:
        hidden = (256, width)
        for kind, adversary in (("NR", None), ("R", ADVERSARY)):
            source = Classifier(train(mlp(hidden), x, y, epochs=epochs, seed=seed, adversary=adversary))
            name = f"D_{kind}, width {width}"
            rows[f"(source of {name})"] = scores(source)
            found = inverted_set(source, x, y, x, draws=draws.within(name), steps=walk)
            rows[name] = made(found, hidden, seed, epochs)
    hidden = (256, 256)
    rows["digits"] = judged(hidden, x, y, seed, epochs)
    source = Classifier(train(mlp(hidden), x, y, epochs=epochs, seed=seed))
    for label, name in (("random", "D_rand"), ("next", "D_det")):
        for radius in radii:
            found = targeted_set(source, x, y, draws=draws.within(name), label=label, epsilon=radius, steps=steps)
            rows[f"{name}, l2 {radius:g}"] = made(found, hidden, seed, epochs)
    return rows


COLUMNS = {
    "clean": "true class, %",
    "next": "next class, %",
    "0": "linf 0.1, %",
    "1": "l2 0.5, %",
    "set reached": "label reached, %",
    "set l2": "l2 moved",
    "set features_before": "features, start",
    "set features_after": "features, end",
}


def cell(name: str, values: Sequence[float]) -> str:
    """Mean over seeds, and the range where there are several."""
    percent = name in ("clean", "next", "0", "1", "set reached")
    scaled = [100 * v if percent else v for v in values]
    digits_after = 1 if percent else 2
    text = f"{statistics.fmean(scaled):.{digits_after}f}"
    return text if len(scaled) < 2 else f"{text} ({min(scaled):.{digits_after}f}-{max(scaled):.{digits_after}f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(1 if given.quick else given.seeds)
    found = [measure(seed, (12, 24), (0.5, 1.0, 1.5), given.quick) for seed in seeds]
    print("| trained on | " + " | ".join(COLUMNS.values()) + " |")
    print("|---|" + "---:|" * len(COLUMNS))
    for name in found[0]:
        cells = [cell(c, [rows[name][c] for rows in found]) if c in found[0][name] else "" for c in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
