"""Ilyas 2019: features that no person sees are enough to classify."""

from __future__ import annotations

from typing import Literal

from robustscope.claims._remade import remade
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab
from robustscope.data.base import Dataset
from robustscope.probes.why.feature_inversion import ILYAS, targeted_set

LABELS: dict[str, Literal["random", "next"]] = {"D_rand": "random", "D_det": "next"}


@register(
    "ilyas2019",
    version=1,
    source="Ilyas et al., 2019, arXiv:1905.02175, Sec. 3.2",
    bibtex=ILYAS,
    topic="feature representation",
    finding="Data carry features that predict the class well and that a small perturbation turns round. A network that learns "
    "from those alone, under labels that look wrong to people, is right on clean test data.",
    hypothesis="Networks trained on inputs moved a little towards a random label (D_rand), or towards the next one (D_det), "
    "and called by it, classify real test inputs far better than networks trained on the same labels and untouched inputs.",
    rules=(
        Rule("D_rand", "percentage points of test accuracy that the perturbations alone bring", "above", 20.0, 5.0),
        Rule("D_det", "the same, where all that was there before points to another class", "above", 20.0, 5.0),
    ),
    caveats="The l2 radius is that at which most digits reach their label; at 0.5, as on CIFAR-10, few do.",
    cause=("data",),
    full={"epsilon": 0.5, "samples": 2000},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 40, "steps": 3, "epochs": 2},
)
def ilyas2019(
    lab: Lab,
    *,
    epsilon: float = 1.0,
    steps: int = 100,
    step_size: float = 0.1,
    seeds: int = 3,
    samples: int = 500,
    epochs: int = 60,
) -> Evidence:
    """Move the training inputs towards new labels, train on them, and judge on clean test inputs and their true classes.

    Args:
        lab: data, networks, measurements.
        epsilon: l2 radius of the perturbations, in the units of the bounds.
        steps: normalised gradient steps.
        step_size: l2 length of a step.
        seeds: source networks; each makes its own data sets.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: accuracy beyond that of the control, for D_rand and D_det.
    """
    batch, given = lab.samples(samples), lab.samples(len(lab.train_set), "train")

    def learn(seed: int, data: Dataset) -> float:
        learner = lab.network(seed, objective="standard", epochs=epochs, data=data)
        return percent(lab.correct(learner, batch))

    rows = []
    for seed in range(seeds):
        source = lab.network(seed, objective="standard", epochs=epochs)
        for name, label in LABELS.items():
            draws = lab.draws(name, given, seed)
            moves = {"epsilon": epsilon, "steps": steps, "step_size": step_size}
            made = targeted_set(source.model, given.x, given.y, draws=draws, label=label, **moves)
            row = {
                "data": name,
                "seed": seed,
                "label_reached": percent(made.reached),
                "l2_moved": float(made.l2.mean()),
            }
            for kind, x in (("perturbed", made.x), ("untouched", given.x)):
                row[kind] = learn(seed, remade(lab.train_set, x, made.y))
            rows.append(row)
    effects = {
        name: difference(column(rows, "perturbed", data=name), column(rows, "untouched", data=name)) for name in LABELS
    }
    plot = Plot("data_sets", "bars", "data", "perturbed", "seed", "Accuracy on clean test data, %")
    return Evidence(effects, {"data_sets": rows}, (plot,))
