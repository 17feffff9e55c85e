"""Croce 2020: plain PGD overestimates the robustness of networks that hide their gradients, an ensemble does not."""

from __future__ import annotations

from collections.abc import Sequence

from robustscope.attacks.apgd import BIBTEX
from robustscope.claims._wrapped import behind
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean, percent
from robustscope.claims.lab import Batch, Lab, Subject
from robustscope.core.types import ThreatModel
from robustscope.data.masked import masked


@register(
    "croce2020",
    version=1,
    source="Croce and Hein, 2020, arXiv:2003.01690, Sec. 6",
    bibtex=BIBTEX,
    topic="benchmarks and bounds",
    finding="Many defences were judged by PGD with fixed settings and fall when an ensemble of attacks without parameters, "
    "one of them without gradients, is run on them.",
    hypothesis="On networks whose gradients or scores are hidden while their decisions stay as they are, PGD leaves many "
    "more samples than the ensemble, which leaves as many as on the network without its mask.",
    rules=(
        Rule("overestimate_of_pgd", "percentage points above the ensemble, mean over masks", "above", 10.0, 1.0),
        Rule("overestimate_of_the_ensemble", "percentage points above the open network", "below", 2.0, 5.0),
    ),
    caveats="The ensemble is the search of this package, not AutoAttack, and was developed on such masks; the masks are "
    "constructions, not published defences.",
    full={"samples": 1000},
    quick={"masks": ("tanh",), "seeds": 2, "samples": 10, "radius": 4.0, "epochs": 2},
)
def croce2020(
    lab: Lab,
    *,
    masks: Sequence[str] = (
        "probabilities",
        "log_probabilities",
        "tanh",
        "temperature_1e-3",
        "plateau",
        "rounded_logits",
        "zero_gradient",
    ),
    seeds: int = 3,
    samples: int = 60,
    steps: int = 40,
    radius: float = 1.0,
    epochs: int = 60,
) -> Evidence:
    """Hide the gradients of standard networks in several ways; compare PGD, the ensemble, and the open network.

    Args:
        lab: data, networks, measurements.
        masks: names of ``robustscope.data.masked.MASKED`` that change no decision.
        seeds: networks.
        samples: test samples that are attacked.
        steps: of PGD on the cross-entropy, each a tenth of the radius.
        radius: factor of the recipe's epsilon.
        epochs: of each training.

    Returns:
        Two effects: means over the masks, across networks.
    """
    batch, threat = lab.samples(samples), lab.threat.scaled(radius)
    rows = []
    for seed in range(seeds):
        network = lab.network(seed, objective="standard", epochs=epochs)
        hidden = {name: behind(network, name, masked(name, network.model.module)) for name in masks}
        for name, one in {"none": network, **hidden}.items():
            rows.append({"seed": seed, "mask": name, **_accuracies(lab, one, batch, threat, steps)})
    pgd, ensemble = (
        [column(rows, name, seed=seed)[1:].mean() for seed in range(seeds)] for name in ("pgd", "ensemble")
    )
    truth = column(rows, "ensemble", mask="none")
    effects = {
        "overestimate_of_pgd": mean([a - b for a, b in zip(pgd, ensemble, strict=True)]),
        "overestimate_of_the_ensemble": mean([a - b for a, b in zip(ensemble, truth, strict=True)]),
    }
    plot = Plot("masks", "points", "ensemble", "pgd", "mask", "Robust accuracy by two searches, percent")
    return Evidence(effects, {"masks": rows}, (plot,))


def _accuracies(lab: Lab, subject: Subject, batch: Batch, threat: ThreatModel, steps: int) -> dict[str, float]:
    """Return accuracy and what PGD and the ensemble leave of it, in percent."""
    return {
        "clean": percent(lab.correct(subject, batch)),
        "pgd": percent(lab.withstands("pgd", subject, batch, threat, steps=steps)),
        "ensemble": percent(lab.robust(subject, batch, threat)),
    }
