"""Ilyas 2019: data that carry robust features alone make ordinary training robust."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustscope.claims._remade import remade
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab
from robustscope.probes.why.feature_inversion import ILYAS, inverted_set

SOURCES = {"D_R": "pgd", "D_NR": "standard"}


@register(
    "ilyas2019_robust",
    version=1,
    source="Ilyas et al., 2019, arXiv:1905.02175, Sec. 3.1",
    bibtex=ILYAS,
    topic="feature representation",
    finding="Robustness lies in the data: a network trained in the standard way on inputs that carry the features of a robust "
    "network alone is robust too; on inputs with those of a standard network it is not.",
    hypothesis="Standard training on inputs made to have the features of an adversarially trained network (D_R) gives "
    "higher robust accuracy than on inputs made to have those of a standard one (D_NR).",
    rules=(Rule("gain", "percentage points of robust accuracy, D_R over D_NR", "above", 5.0, 0.0),),
    caveats="The robust network is trained in the norm of the recipe (the source: l2), and the layer of features is "
    "narrow, for on a wide one features determine a digit. Within a third of the radius every network on "
    "digits keeps some 70 %, whatever it learnt from, which leaves little to gain.",
    cause=("objective",),
    full={"source_parameters": {}, "steps": 1000, "samples": 2000},
    quick={"seeds": 2, "samples": 15, "steps": 3, "epochs": 1},
)
def ilyas2019_robust(
    lab: Lab,
    *,
    source_parameters: Mapping[str, Any] = {"hidden": [256, 24]},
    steps: int = 300,
    step_size: float = 0.1,
    radius: float = 1 / 3,
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 60,
) -> Evidence:
    """Make data sets of the features of a robust and a standard network, train on both, and attack what was trained.

    Args:
        lab: data, networks, measurements.
        source_parameters: of the architecture of the networks whose features count; their last hidden layer should be
            narrower than an input.
        steps: of the walk from another training input to one with the wanted features.
        step_size: l2 length of a step.
        radius: factor of the recipe's epsilon at which robustness is judged.
        seeds: pairs of networks.
        samples: test samples.
        epochs: of each training.

    Returns:
        One effect: the gain in robust accuracy.
    """
    batch, given = lab.samples(samples), lab.samples(len(lab.train_set), "train")
    threat, rows = lab.threat.scaled(radius), []
    for seed in range(seeds):
        draws = lab.draws("starts", given, seed)
        for name, objective in SOURCES.items():
            source = lab.network(seed, objective=objective, epochs=epochs, model_parameters=source_parameters)
            made = inverted_set(source.model, given.x, given.y, given.x, draws=draws, steps=steps, step_size=step_size)
            data = remade(lab.train_set, made.x)
            learner = lab.network(seed, name=name, objective="standard", epochs=epochs, data=data)
            found = {
                "features_left": made.report()["features_after"] / made.report()["features_before"],
                "source_robust": percent(lab.robust(source, batch, threat)),
                "accuracy": percent(lab.correct(learner, batch)),
                "robust": percent(lab.robust(learner, batch, threat)),
            }
            rows.append({"data": name, "seed": seed, **found})
    effect = difference(column(rows, "robust", data="D_R"), column(rows, "robust", data="D_NR"))
    plot = Plot("data_sets", "points", "accuracy", "robust", "data", "Standard training on each data set, %")
    return Evidence({"gain": effect}, {"data_sets": rows}, (plot,))
