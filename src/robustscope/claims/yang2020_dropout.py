"""Yang 2020: dropout narrows the generalisation gap of robust training."""

from __future__ import annotations

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.local_lipschitz import BIBTEX


@register(
    "yang2020_dropout",
    version=1,
    source="Yang et al., 2020, arXiv:2003.02460, Sec. 5",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="What robust training learns does not carry over to test samples well enough; dropout makes the gap narrower "
    "and the networks better.",
    hypothesis="With dropout, adversarially trained networks have a smaller gap between robust accuracy on training and on "
    "test samples, and are not less robust on test samples.",
    rules=(
        Rule("gap_narrowed", "percentage points of robust accuracy, training less test", "above", 1.0, 0.0),
        Rule("robustness_gained", "percentage points of robust accuracy on test samples", "above", -1.0, -5.0),
    ),
    caveats="Perceptrons, with the inputs of all but the first layer dropped; the paper trains larger convolutional networks. "
    "On digits the gap narrows from above: dropout of one half takes more from training samples than from test samples, but "
    "from both. Of the training samples a tenth was held out.",
    cause=("dropout",),
    full={"samples": 1000, "seeds": 3},
    full_recipe="mnist-pgd",
    quick={"samples": 12, "seeds": 2, "epochs": 2},
)
def yang2020_dropout(
    lab: Lab, *, share: float = 0.5, samples: int = 400, seeds: int = 5, epochs: int | None = None
) -> Evidence:
    """Train by PGD with and without dropout; judge robust accuracy on training and on test samples.

    Args:
        lab: data, networks, measurements.
        share: of the inputs of linear layers that are dropped while training.
        samples: of each split.
        seeds: networks of each kind.
        epochs: of each training; those of the recipe if None.

    Returns:
        Two effects: by how much the gap is narrower with dropout, and what that does to test samples.
    """
    trained, test = lab.samples(samples, "train"), lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        robust = {"train": lab.robust(subject, trained), "test": lab.robust(subject, test)}
        return {
            "accuracy": percent(lab.correct(subject, test)),
            **{f"robust_{split}": percent(kept) for split, kept in robust.items()},
            "gap": 100 * float(robust["train"].double().mean() - robust["test"].double().mean()),
        }

    rows = lab.table({"without": {}, "dropout": {"dropout": share}}, seeds, measure, objective="pgd", epochs=epochs)
    effects = {
        "gap_narrowed": difference(column(rows, "gap", network="without"), column(rows, "gap", network="dropout")),
        "robustness_gained": difference(
            column(rows, "robust_test", network="dropout"), column(rows, "robust_test", network="without")
        ),
    }
    plot = Plot("networks", "points", "robust_train", "robust_test", "network", "Robust accuracy, %")
    return Evidence(effects, {"networks": rows}, (plot,))
