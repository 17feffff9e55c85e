"""Rozsa 2016: normally trained networks that are more accurate need larger perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation, percent
from robustscope.claims.lab import Batch, Lab, Subject
from robustscope.probes.why.line_search import BIBTEX


@register(
    "rozsa2016",
    version=1,
    source="Rozsa, Gunther, Boult, 2016, arXiv:1610.04563, Sec. IV",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="Among normally trained networks the more accurate ones are more robust: quick attacks need larger perturbations "
    "to change their decisions.",
    hypothesis="Across normally trained networks of different width and number of training samples, the smallest steps to an "
    "error along the gradient signs and along hot/cold grow with accuracy, on samples that all networks classify correctly.",
    rules=(
        Rule("along_signs", "rank correlation of accuracy and median linf step, -1 to 1", "above", 0.5, 0.0),
        Rule("along_hot_cold", "rank correlation of accuracy and median l2 step, -1 to 1", "above", 0.5, 0.0),
    ),
    caveats="Accuracy differs by width and by the number of samples, in the paper by architecture. Steps along two directions "
    "are no robust accuracy: networks that bend the gradient away from the nearest error look robust. Where no step to an "
    "error is found, the longest possible one counts. On digits the widest networks with most samples are the most accurate, "
    "and have the shortest steps.",
    takes_models=True,
    cause=("model_parameters", "samples"),
    full={"networks": ({"width": 4}, {"width": 16}, {"width": 64}), "sizes": (1000, 5000, 25000), "samples": 1000},
    full_recipe="cifar10-fast-small",
    quick={
        "networks": ({"hidden": [8]}, {"hidden": [64]}),
        "sizes": (200, 1000),
        "seeds": 1,
        "samples": 60,
        "epochs": 5,
    },
)
def rozsa2016(
    lab: Lab,
    *,
    networks: Sequence[Mapping[str, Any]] = ({"hidden": [16]}, {"hidden": [64]}, {"hidden": [256, 256]}),
    sizes: Sequence[int] = (100, 300, 1000),
    seeds: int = 2,
    samples: int = 300,
    epochs: int | None = None,
) -> Evidence:
    """Search along the directions of quick attacks for the smallest step that changes the class.

    Args:
        lab: data, networks, measurements.
        networks: parameters of the architecture of the recipe.
        sizes: training samples.
        seeds: networks for each of both.
        samples: test samples; those that all networks classify correctly are attacked.
        epochs: of each training; those of the recipe if None.

    Returns:
        Two effects: the rank correlations across networks.
    """
    subjects = lab.subjects() if lab.setting.models else _trained(lab, networks, sizes, seeds, epochs)
    batch = lab.samples(samples)
    correct = [lab.correct(subject, batch) for subject in subjects]
    common = torch.stack(correct).all(0).nonzero()[:, 0]
    shared = Batch(batch.x[common], batch.y[common], tuple(batch.ids[i] for i in common.tolist()))

    width = lab.threat.bounds.upper - lab.threat.bounds.lower
    longest = {"sign_linf": width, "hot_cold_l2": width * batch.x[0].numel() ** 0.5}

    def measure(subject: Subject, right: torch.Tensor) -> dict[str, Any]:
        found = lab.find("line_search", subject, shared).columns
        steps = {name: float(found[name].nan_to_num(most).median()) for name, most in longest.items()}
        return {"network": subject.name, "accuracy": percent(right), "n": len(shared), **steps}

    rows = [measure(*pair) for pair in zip(subjects, correct, strict=True)]
    accuracy = column(rows, "accuracy")
    effects = {
        "along_signs": correlation(accuracy, column(rows, "sign_linf")),
        "along_hot_cold": correlation(accuracy, column(rows, "hot_cold_l2")),
    }
    plots = (
        Plot("networks", "points", "accuracy", "sign_linf", "network", "Median step along the signs, linf"),
        Plot("networks", "points", "accuracy", "hot_cold_l2", "network", "Median step along hot/cold, l2"),
    )
    return Evidence(effects, {"networks": rows}, plots)


def _trained(
    lab: Lab, networks: Sequence[Mapping[str, Any]], sizes: Sequence[int], seeds: int, epochs: int | None
) -> list[Subject]:
    """Return normally trained networks of each shape, size of the training set, and seed."""
    return [
        lab.network(
            seed,
            name=f"{' '.join(map(str, shape.values()))}, {size} samples, seed {seed}",
            objective="standard",
            model_parameters=shape,
            samples=size,
            epochs=epochs,
        )
        for shape in networks
        for size in sizes
        for seed in range(seeds)
    ]
