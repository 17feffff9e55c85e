"""Buzhinsky 2020: robustness in the latent space of a generative model goes along with accuracy, not with lp robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from robustscope.claims._family import family
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation, percent
from robustscope.claims.lab import FAMILY, Lab
from robustscope.limits.generators import PPCA
from robustscope.limits.latent import BUZHINSKY, latent_metrics
from robustscope.limits.latent_search import SearchPlan

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    **FAMILY,
    "standard, 1 epoch": {"objective": "standard", "epochs": 1},
    "standard, 5 epochs": {"objective": "standard", "epochs": 5},
    "pgd, 5 epochs": {"objective": "pgd", "epochs": 5},
}
"""Networks from fragile to robust, and some that were trained for a short time."""


@register(
    "buzhinsky2020",
    version=1,
    source="Buzhinsky, Nerinovsky and Tripakis, 2020, arXiv:2003.01993, Sec. 5",
    bibtex=BUZHINSKY,
    topic="robustness and accuracy",
    finding="Classifiers that are more accurate on clean images withstand larger perturbations in the latent space of a "
    "generative model, and adversarial training against small lp norms does not help there.",
    hypothesis="Across networks, the length of the latent perturbation that fools them rises with clean accuracy, and not "
    "with the distance of their nearest adversarial examples in the norm of the threat model.",
    rules=(
        Rule("with_clean_accuracy", "rank correlation across networks, -1 to 1", "above", 0.5, 0.0),
        Rule("with_lp_distance", "rank correlation across networks, -1 to 1", "below", 0.3, 0.7),
    ),
    caveats="Probabilistic principal components of each class in the place of generative adversarial networks: they draw "
    "blurred digits, and what they call nearby is linear. The mean length "
    "puts robust networks first, but within a length of 0.3, the other metric of the table, they are worse than standard "
    "ones, as published.",
    takes_models=True,
    cause=("objective", "epochs", "radius", "parameters"),
    full={"latent": 32, "samples": 500, "repeats": 12, "steps": 50},
    quick={
        "networks": ("standard", "noise", "fast", "pgd_third", "standard, 1 epoch"),
        "latent": 4,
        "samples": 60,
        "repeats": 1,
        "steps": 5,
        "seeds": 1,
        "epochs": 2,
    },
)
def buzhinsky2020(
    lab: Lab,
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    latent: int = 16,
    seeds: int = 2,
    samples: int = 100,
    repeats: int = 4,
    steps: int = 25,
    epochs: int = 60,
) -> Evidence:
    """Fit a generative model of each class; compare what fools networks in its codes with their other robustness.

    Args:
        lab: data, networks, measurements.
        networks: names of ``NETWORKS``.
        latent: values of a code.
        seeds: networks of each kind.
        samples: test samples that are attacked, and as many that are generated.
        repeats: searches for each sample.
        steps: of each search.
        epochs: of each training that does not say otherwise.

    Returns:
        Two effects, rank correlations; misclassified samples count with length 0, those not fooled with the reach.
    """
    known = torch.as_tensor(lab.train_set.labels)
    generator = PPCA.fit(lab.train_set.read(range(len(lab.train_set))), known, latent=latent)
    batch, plan = lab.samples(samples), SearchPlan(repeats=repeats, steps=steps)
    chosen = {name: NETWORKS[name] for name in networks}
    rows = []
    for subject in family(lab, chosen, seeds, epochs=epochs):
        lab.tell(f"searching codes that fool {subject.name}")
        draws = lab.draws("latent", batch)
        found = latent_metrics(subject.model, batch.x, batch.y, generator, draws=draws, plan=plan)
        lengths = found.reconstruction_severity.search.radius.clamp(max=plan.reach)
        rows.append(
            {
                "network": subject.name,
                "clean_accuracy": percent(lab.correct(subject, batch)),
                "lp_distance": float(lab.distance(subject, batch, lab.threat.norm).double().mean()),
                "reconstructed": 100 * found.reconstruction_accuracy.value,
                "generated": 100 * found.generation_accuracy.value,
                "latent_length": float(lengths.mean()),
                "latent_adversarial": 100 * found.reconstruction_adversarial_accuracy.value,
            }
        )
    lengths = column(rows, "latent_length")
    others = ("clean_accuracy", "lp_distance")
    effects = {f"with_{name}": correlation(column(rows, name), lengths) for name in others}
    plots = tuple(
        Plot("networks", "points", name, "latent_length", "network", "What fools networks in the latent space")
        for name in others
    )
    return Evidence(effects, {"networks": rows}, plots)
