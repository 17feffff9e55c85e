"""Weng 2018: CLEVER goes along with the distance of the nearest adversarial example, and lies below it."""

from __future__ import annotations

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation, mean, percent
from robustscope.claims.lab import Lab
from robustscope.core.types import ThreatModel
from robustscope.estimates.clever import BIBTEX
from robustscope.estimates.compose import estimate


@register(
    "weng2018_clever",
    version=1,
    source="Weng et al., 2018, arXiv:1801.10578, Sec. 5",
    bibtex=BIBTEX,
    topic="benchmarks and bounds",
    finding="The CLEVER score needs no attack, is higher for networks that are harder to attack, and is mostly below the "
    "distortions that the strongest attacks find.",
    hypothesis="CLEVER rises with the l2 distance to the nearest adversarial example found, across the samples of a network "
    "and across networks, and is below it for nearly all samples.",
    rules=(
        Rule("across_samples", "rank correlation within a network, mean over networks", "above", 0.5, 0.2),
        Rule("across_networks", "rank correlation of medians", "above", 0.5, 0.0),
        Rule("below_the_attack", "percent of the samples of a network, mean over networks", "above", 90.0, 50.0),
    ),
    caveats="Fewer gradients are sampled for a score than in the paper, and towards the three likeliest classes only. "
    "Networks of TRADES spoil the ranking: steep gradients beyond their adversarial examples, but inside the radius of "
    "sampling, keep their scores low.",
    takes_models=True,
    cause=("objective", "radius", "parameters"),
    full={"samples": 100, "radius": 5.0, "batches": 100, "points": 100},
    quick={"samples": 10, "batches": 3, "points": 4, "epochs": 1, "seeds": 1},
)
def weng2018_clever(
    lab: Lab,
    *,
    samples: int = 60,
    seeds: int = 2,
    radius: float = 2.0,
    batches: int = 50,
    points: int = 50,
    epochs: int = 60,
) -> Evidence:
    """Estimate radii of a family of networks by CLEVER, and search for their nearest adversarial examples.

    Args:
        lab: data, networks, measurements.
        samples: test samples; of each network those that it has right count.
        seeds: of each member of the family.
        radius: l2 radius of sampling, the largest score.
        batches: maxima behind a score.
        points: gradients behind a maximum.
        epochs: of each training.

    Returns:
        Three effects across networks.
    """
    batch, threat = lab.samples(samples), ThreatModel("l2", radius, lab.threat.bounds)
    networks, points_of = [], []
    for subject in lab.subjects(seeds, epochs=epochs):
        lab.tell(f"estimating radii of {subject.name}")
        right = lab.correct(subject, batch)
        distance = lab.distance(subject, batch)[right].double()
        score = estimate(
            "clever",
            subject.model,
            batch.x,
            batch.y,
            threat,
            draws=lab.draws("clever", batch),
            batches=batches,
            points=points,
            rivals=3,
        ).radius[right]
        pairs = list(zip(score.tolist(), distance.tolist(), strict=True))
        points_of += [{"network": subject.name, "score": s, "distance": d} for s, d in pairs]
        networks.append(
            {
                "network": subject.name,
                "score": float(score.median()),
                "distance": float(distance.median()),
                "correlation": correlation(score, distance).value,
                "below": percent(score <= distance),
            }
        )
    effects = {
        "across_samples": mean(column(networks, "correlation")),
        "across_networks": correlation(column(networks, "distance"), column(networks, "score")),
        "below_the_attack": mean(column(networks, "below")),
    }
    plots = (
        Plot("networks", "points", "distance", "score", "network", "Medians, l2"),
        Plot("samples", "points", "distance", "score", "network", "Samples, l2"),
    )
    return Evidence(effects, {"networks": networks, "samples": points_of}, plots)
