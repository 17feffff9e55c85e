"""Rice 2020: adversarial training overfits, and early stopping would have kept the robustness."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean
from robustscope.claims.lab import Lab

BIBTEX = """@inproceedings{rice2020overfitting,
  title = {Overfitting in adversarially robust deep learning},
  author = {Rice, Leslie and Wong, Eric and Kolter, J. Zico},
  booktitle = {International Conference on Machine Learning},
  year = {2020}
}"""


@register(
    "rice2020",
    version=1,
    source="Rice et al., 2020, arXiv:2002.11569, Sec. 3",
    bibtex=BIBTEX,
    topic="model bias",
    finding="Adversarial training that goes on after its best epoch loses robust accuracy on test data, though the training "
    "loss falls and clean accuracy does not suffer; stopping early keeps it.",
    hypothesis="In long adversarial training on few samples, robust test accuracy at the end is below its best, and clean "
    "test accuracy is not.",
    rules=(
        Rule("robust_fall", "percentage points of robust accuracy, best stretch less the last", "above", 3.0, 1.0),
        Rule("clean_change", "percentage points of accuracy, last stretch less that of the best", "above", -1.0, -3.0),
    ),
    caveats="Robust accuracy along the way is that under PGD of 10 steps, on test data, so that the best stretch is "
    "chosen with hindsight; stretches of several epochs keep the noise of single ones out. Digits hardly "
    "overfit: after the first drop of the rate robust accuracy stays, even with 150 samples.",
    cause=("samples",),
    full={"samples": "all", "epochs": 200, "stretch": 5, "judged": 1000},
    quick={"samples": "60", "epochs": 2, "stretch": 1, "judged": 20, "seeds": 2},
)
def rice2020(
    lab: Lab,
    *,
    samples: str = "150",
    epochs: int = 150,
    optimizer: str = "sgd",
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    stretch: int = 5,
    judged: int = 200,
    seeds: int = 3,
) -> Evidence:
    """Train on PGD examples of few samples, with two drops of the rate, and follow accuracies on test data.

    Args:
        lab: data, networks, measurements.
        samples: of the training, a number or "all".
        epochs: of each training; the rate drops to a tenth at half and at three quarters of them.
        optimizer: of the training.
        learning_rate: the highest.
        weight_decay: of the optimizer.
        stretch: epochs whose mean counts as one reading.
        judged: test samples.
        seeds: trainings.

    Returns:
        Two effects: the fall of robust accuracy since its best stretch, and the change of accuracy.
    """
    recipe: dict[str, Any] = {
        "objective": "pgd",
        "samples": samples,
        "epochs": epochs,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "schedule": "piecewise",
        "validation_data": f"{lab.setting.data}#test",
        "validation": judged,
    }
    curves, rows = [], []
    for seed in range(seeds):
        history = lab.network(seed, **recipe).history
        curves += [
            {"seed": seed, **{name: row[name] for name in ("epoch", "clean", "robust", "loss")}} for row in history
        ]
        clean, robust = (_means(100 * column(history, name), stretch) for name in ("clean", "robust"))
        best = int(robust.argmax())
        found = {
            "best_robust": robust[best],
            "last_robust": robust[-1],
            "clean_then": clean[best],
            "last_clean": clean[-1],
        }
        rows.append(
            {"seed": seed, "best_epoch": best + stretch, **{name: float(value) for name, value in found.items()}}
        )
    effects = {
        "robust_fall": mean(column(rows, "best_robust") - column(rows, "last_robust")),
        "clean_change": mean(column(rows, "last_clean") - column(rows, "clean_then")),
    }
    plots = (
        Plot("epochs", "lines", "epoch", "robust", "seed", "Robust accuracy on test data, as a fraction"),
        Plot("epochs", "lines", "epoch", "loss", "seed", "Loss on training samples under attack, nats"),
    )
    return Evidence(effects, {"trainings": rows, "epochs": curves}, plots)


def _means(values: np.ndarray, stretch: int) -> np.ndarray:
    """Return the mean of each ``stretch`` neighbours."""
    return np.convolve(values, np.ones(stretch) / stretch, "valid")
