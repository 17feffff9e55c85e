"""Ding 2019: shifts of the data that keep their meaning move robust accuracy more than clean accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from robustscope.claims._remade import remade, whole
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, mean, percent
from robustscope.claims.lab import Lab
from robustscope.data.transforms import saturate, smooth
from robustscope.probes.why.average_filter import DING


@register(
    "ding2019",
    version=1,
    source="Ding et al., 2019, arXiv:1902.08336, Sec. 4",
    bibtex=DING,
    topic="feature representation",
    finding="A shift of the data that loses no meaning, such as smoothing or saturation, hardly changes the accuracy of standard "
    "training and changes the robust accuracy of adversarial training a great deal.",
    hypothesis="With training and test data shifted alike and a new network for each shift, the robust accuracy of "
    "adversarial training swings more than the accuracy of standard training.",
    rules=(
        Rule("excess", "percentage points, swing of robust accuracy less swing of accuracy", "above", 10.0, 0.0),
        Rule("accuracy_swing", "percentage points, largest less smallest accuracy over the shifts", "below", 5.0, 10.0),
    ),
    caveats="Adversarial training is FAST in place of PGD. A swing is the largest value less the smallest, so that noise "
    "raises it a little.",
    cause=("data",),
    full={"kernels": (2, 3, 4, 5), "levels": (1.0, 4.0, 8.0, 16.0, 64.0), "objective": "pgd", "samples": 1000},
    quick={"kernels": (2,), "levels": (), "seeds": 2, "samples": 15, "epochs": 1},
)
def ding2019(
    lab: Lab,
    *,
    kernels: Sequence[int] = (2,),
    levels: Sequence[float] = (1.0, 16.0),
    objective: str = "fast",
    seeds: int = 3,
    samples: int = 200,
    epochs: int = 20,
) -> Evidence:
    """Train on each shift, in the standard way and adversarially, and judge on test data of the same shift.

    Args:
        lab: data, networks, measurements.
        kernels: sides of the squares that pictures are averaged over, in pixels.
        levels: of saturation; 2 changes nothing, less greys, more pushes to black and white.
        objective: of adversarial training.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: the excess swing of robust accuracy, and the swing of accuracy.
    """
    shifts: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x}
    shifts |= {f"smoothed {k} x {k}": lambda x, k=k: smooth(x, k) for k in kernels}
    shifts |= {f"saturation {p:g}": lambda x, p=p: saturate(x, p, lab.threat.bounds) for p in levels}
    batch, rows = lab.samples(samples), []
    for name, shift in shifts.items():
        data, seen = remade(lab.train_set, shift(whole(lab.train_set))), replace(batch, x=shift(batch.x))
        for seed in range(seeds):
            common: dict[str, Any] = {"data": data, "epochs": epochs}
            standard = lab.network(seed, objective="standard", **common)
            robust = lab.network(seed, objective=objective, **common)
            found = {
                "accuracy": percent(lab.correct(standard, seen)),
                "adversarial_accuracy": percent(lab.correct(robust, seen)),
                "robust": percent(lab.robust(robust, seen)),
            }
            rows.append({"shift": name, "seed": seed, **found})

    def swing(measured: str) -> list[float]:
        return [float(np.ptp(column(rows, measured, seed=seed))) for seed in range(seeds)]

    effects = {"excess": difference(swing("robust"), swing("accuracy")), "accuracy_swing": mean(swing("accuracy"))}
    plots = (
        Plot("networks", "bars", "shift", "robust", "seed", "Robust accuracy of adversarial training, %"),
        Plot("networks", "bars", "shift", "accuracy", "seed", "Accuracy of standard training, %"),
    )
    return Evidence(effects, {"networks": rows}, plots)
