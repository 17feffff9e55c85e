"""Stutz 2019: robustness on the manifold is generalisation, and usual adversarial examples leave the manifold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustscope.attacks.compose import attack
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation, difference, percent
from robustscope.claims.lab import Batch, Lab, Subject
from robustscope.core.types import ThreatModel
from robustscope.limits.generators import PPCA
from robustscope.limits.latent_search import SearchPlan, search
from robustscope.training.objectives.on_manifold import BIBTEX


@register(
    "stutz2019_manifold",
    version=2,
    source="Stutz, Hein, Schiele, 2019, arXiv:1812.00740, Sec. 3.2 and 3.3",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="Adversarial examples on the manifold of the data are errors of generalisation, which become rarer as the test "
    "error falls; usual adversarial examples leave the manifold. So robustness and accuracy need not exclude each other.",
    hypothesis="Across networks trained on more and more samples, the success rate of attacks on the manifold rises with the "
    "test error; and more of a usual perturbation's squared length is off the manifold than of what tells samples apart.",
    rules=(
        Rule("correlation", "rank correlation of test error and success rate, -1 to 1", "above", 0.5, 0.0),
        Rule("success_saved", "percentage points of the success rate, fewest less most samples", "above", 5.0, 0.0),
        Rule("further_off_the_manifold", "percentage points of squared length", "above", 20.0, 0.0),
    ),
    caveats="The manifold of a class is the plane of its principal components, fitted on all training samples, where the "
    "paper learns a VAE-GAN for each class.",
    cause=("samples",),
    full={"sizes": (250, 1000, 4000, 16000, 40000), "samples": 1000, "latent": 10},
    quick={"sizes": (200, 1000), "seeds": 2, "samples": 20, "repeats": 1, "steps": 2, "epochs": 1},
)
def stutz2019_manifold(
    lab: Lab,
    *,
    sizes: Sequence[int] = (50, 100, 200, 400, 800, 1200),
    seeds: int = 3,
    samples: int = 300,
    latent: int = 10,
    rho: float = 0.3,
    repeats: int = 4,
    steps: int = 20,
    epochs: int | None = None,
) -> Evidence:
    """Train on more and more samples; attack on and off the manifold of each class.

    Args:
        lab: data, networks, measurements.
        sizes: training samples of the networks.
        seeds: networks of each size; each has a subset of its own.
        samples: test samples.
        latent: principal components of a class.
        rho: radius of attacks on the manifold, scaled length of the code.
        repeats: runs of that attack for each sample.
        steps: of each run.
        epochs: of each training; those of the recipe if None.

    Returns:
        Three effects: a correlation, what training on the largest number of samples saves over the smallest, and how much
        more of an l2 perturbation is off the manifold than of a sample's difference from the mean of its class.
    """
    known, batch = lab.samples(len(lab.train_set), "train"), lab.samples(samples)
    generator = PPCA.fit(known.x, known.y, latent=latent)
    natural = _off(generator, batch.x - generator.mean[batch.y], batch.y).mean()
    plan = SearchPlan(reach=rho, repeats=repeats, steps=steps)

    def measure(subject: Subject) -> dict[str, float]:
        centre = generator.encode(batch.x, batch.y)
        found = search(subject.model, generator, centre, batch.y, draws=lab.draws("latent", batch), plan=plan)
        attempted = found.radius > 0
        return {
            "test_error": 100 * float(1 - lab.correct(subject, batch).double().mean()),
            "success_on_manifold": percent(found.radius[attempted] <= rho),
            "perturbation_off": 100 * float(_off(generator, *_perturbations(lab, subject, batch)).mean()),
            "samples_off": 100 * float(natural),
        }

    fewest, most = f"{min(sizes)} samples", f"{max(sizes)} samples"
    networks = {f"{size} samples": {"samples": size} for size in sizes}
    rows = lab.table(networks, seeds, measure, objective="standard", epochs=epochs)
    effects = {
        "correlation": correlation(column(rows, "test_error"), column(rows, "success_on_manifold")),
        "success_saved": difference(
            column(rows, "success_on_manifold", network=fewest), column(rows, "success_on_manifold", network=most)
        ),
        "further_off_the_manifold": difference(column(rows, "perturbation_off"), column(rows, "samples_off")),
    }
    plot = Plot(
        "networks", "points", "test_error", "success_on_manifold", "network", "Errors and attacks on the manifold, %"
    )
    return Evidence(effects, {"networks": rows}, (plot,))


def _perturbations(lab: Lab, subject: Subject, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the l2 perturbations that a search found for correct samples, (n, *S), and the classes of these."""
    threat = ThreatModel("l2", float("inf"), lab.threat.bounds)
    found = attack("deepfool", subject.model, batch.x, batch.y, threat, draws=lab.draws("deepfool", batch))
    moved = found.verdict.success & (found.verdict.distance > 0)
    return (found.result.x_adv - batch.x)[moved], batch.y[moved]


def _off(generator: PPCA, delta: Tensor, y: Tensor) -> Tensor:
    """Return which share of the squared length is orthogonal to the plane of the class: (n,)."""
    axes = torch.nn.functional.normalize(generator.loadings, dim=1)[y]
    flat = delta.flatten(1)
    along = (axes.transpose(1, 2) @ flat[:, :, None])[:, :, 0]
    return 1 - along.square().sum(1) / flat.square().sum(1)
