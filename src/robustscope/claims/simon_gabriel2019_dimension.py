"""Simon-Gabriel 2019: the loss gradient grows with the square root of the number of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from robustscope.claims._remade import remade, whole
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean, percent
from robustscope.claims.lab import Lab
from robustscope.data.transforms import check_images
from robustscope.probes.why.gradient_norm import BIBTEX


@register(
    "simon_gabriel2019_dimension",
    version=1,
    source="Simon-Gabriel et al., 2019, arXiv:1802.01421, Sec. 3 and 4.2",
    bibtex=BIBTEX,
    topic="feature representation",
    finding="The l1 norm of the loss gradient, and with it the damage that a small linf perturbation does, grows with the square "
    "root of the input dimension: by proof at the start of training, by experiment after it.",
    hypothesis="On one data set in several resolutions, the logarithm of the mean l1 norm of the loss gradient rises with "
    "that of the number of input values with a slope of about one half, before and after standard training.",
    rules=(
        Rule("slope_at_the_start", "slope in logarithms, 1/2 in theory", "above", 0.4, 0.25),
        Rule("slope_after_training", "slope in logarithms, 1/2 in theory", "above", 0.25, 0.0),
    ),
    caveats="Pictures are enlarged pixel by pixel, and weights start with torch's own variances, not He's. After "
    "training the networks differ in accuracy: on larger pictures they are right more often, and a loss "
    "near 0 has a short gradient; the loss added by a whole step of the radius (step_damage) grows.",
    cause=("data",),
    full={"samples": 1000, "model": "preact_resnet18", "model_parameters": {}, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"factors": (1, 2), "seeds": 2, "samples": 40, "epochs": 1},
)
def simon_gabriel2019_dimension(
    lab: Lab,
    *,
    factors: Sequence[int] = (1, 2, 4),
    model: str = "small_cnn",
    model_parameters: Mapping[str, Any] = {"width": 16},
    seeds: int = 3,
    samples: int = 300,
    epochs: int = 20,
) -> Evidence:
    """Measure loss gradients of networks at the start and at the end of training, on pictures of several sizes.

    Args:
        lab: data, networks, measurements.
        factors: by which height and width are multiplied.
        model: architecture, one that takes pictures of all these sizes.
        model_parameters: of the architecture.
        seeds: networks for each size.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: the slopes.
    """
    batch, rows = lab.samples(samples), []
    for factor in factors:
        data = remade(lab.train_set, _enlarge(whole(lab.train_set), factor))
        seen = replace(batch, x=_enlarge(batch.x, factor))
        for seed in range(seeds):
            common: dict[str, Any] = {"objective": "standard", "data": data, "model": model}
            common["model_parameters"] = model_parameters
            # A network that learns at rate 0 is the network at the start.
            start = lab.network(seed, epochs=1, learning_rate=0.0, **common)
            trained = lab.network(seed, epochs=epochs, **common)
            for stage, network in (("start", start), ("trained", trained)):
                found = lab.find("gradient_norm", network, seen).columns
                named = {"stage": stage, "values": seen.x[0].numel(), "seed": seed}
                measured = {name: float(found[name].mean()) for name in ("l1", "l2", "step_damage")}
                rows.append({**named, "accuracy": percent(lab.correct(network, seen)), **measured})

    def slopes(stage: str) -> list[float]:
        parts = [[column(rows, name, stage=stage, seed=seed) for name in ("values", "l1")] for seed in range(seeds)]
        return [float(np.polyfit(np.log(values), np.log(lengths), 1)[0]) for values, lengths in parts]

    effects = {"slope_at_the_start": mean(slopes("start")), "slope_after_training": mean(slopes("trained"))}
    title = "Mean l1 norm of the loss gradient, nats for each unit of linf"
    plot = Plot("networks", "points", "values", "l1", "stage", title, logarithmic=("x", "y"))
    return Evidence(effects, {"networks": rows}, (plot,))


def _enlarge(x: Tensor, factor: int) -> Tensor:
    """Return pictures whose pixels have become squares of ``factor`` x ``factor``."""
    return check_images(x).repeat_interleave(factor, -2).repeat_interleave(factor, -1)
