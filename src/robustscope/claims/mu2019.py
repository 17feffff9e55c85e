"""Mu 2019: networks that read clean digits lose much under corruptions, and adversarial training makes it worse."""

from __future__ import annotations

from robustscope.claims._resized import resized, resized_batch
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.corruptions.cards import MU
from robustscope.corruptions.suites import SUITES
from robustscope.runs.corruption_suites import corrupted


@register(
    "mu2019",
    version=1,
    source="Mu and Gilmer, 2019, arXiv:1906.02337, Sec. 4",
    bibtex=MU,
    topic="benchmarks and bounds",
    finding="The corruptions of MNIST-C degrade networks that are nearly perfect on clean digits, and networks that were "
    "trained against adversarial perturbations degrade more.",
    hypothesis="Standard networks lose much of their accuracy under the fifteen corruptions of MNIST-C, and PGD adversarial "
    "training leaves a lower mean accuracy under them.",
    rules=(
        Rule("lost", "percentage points from clean to corrupted accuracy, standard networks", "above", 10.0, 3.0),
        Rule("gain_of_adversarial_training", "percentage points of corrupted accuracy", "below", -1.0, 1.0),
    ),
    caveats="Digits of 8 pixels a side enlarged to the 28 of MNIST, with perceptrons in the place of "
    "convolutions: without an adversary these fail at brightness, fog and stripes, which shift large parts of a picture. "
    "On noise, blur and lines adversarial training loses, as published.",
    cause=("objective",),
    full={"samples": 10_000, "epochs": 15, "seeds": 3},
    full_recipe="mnist-fast",
    quick={"samples": 20, "epochs": 1, "seeds": 2},
)
def mu2019(lab: Lab, *, side: int = 28, seeds: int = 3, samples: int = 300, epochs: int = 20) -> Evidence:
    """Train networks with and without an adversary on pictures of one size; compare their accuracies under MNIST-C.

    Args:
        lab: data, networks, measurements.
        side: height and width of the pictures.
        seeds: networks of each objective.
        samples: test samples that are corrupted.
        epochs: of each training.

    Returns:
        Two effects across seeds.
    """
    data, batch = resized(lab.train_set, side), resized_batch(lab.samples(samples), side)
    pictures = {part: corrupted(batch.x, part, batch.ids, lab.setting.seed, "mnist-c") for part in SUITES["mnist-c"]}

    def measure(subject: Subject) -> dict[str, float]:
        right = {name: subject.model.decisions(x) == batch.y for (name, _), x in pictures.items()}
        each = {name: percent(mask) for name, mask in right.items()}
        clean = percent(lab.correct(subject, batch))
        return {"clean": clean, "corrupted": sum(each.values()) / len(each), **each}

    networks = {"standard": {"objective": "standard"}, "pgd": {"objective": "pgd"}}
    rows = lab.table(networks, seeds, measure, data=data, epochs=epochs)
    plain, robust = (column(rows, "corrupted", network=name) for name in networks)
    effects = {
        "lost": difference(column(rows, "clean", network="standard"), plain),
        "gain_of_adversarial_training": difference(robust, plain),
    }
    bars = [
        {"corruption": name, "network": network, "accuracy": float(column(rows, name, network=network).mean())}
        for network in networks
        for name, _ in SUITES["mnist-c"]
    ]
    plot = Plot("corruptions", "bars", "corruption", "accuracy", "network", "Accuracy, percent, means over seeds")
    return Evidence(effects, {"networks": rows, "corruptions": bars}, (plot,))
