"""Gilmer 2019: the error rate in Gaussian noise tells how far the nearest error is."""

from __future__ import annotations

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, correlation, mean
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.noise_error import BIBTEX


@register(
    "gilmer2019",
    version=1,
    source="Gilmer, Ford et al., 2019, arXiv:1901.10513, Sec. 4",
    bibtex=BIBTEX,
    topic="corruption robustness",
    finding="Adversarial examples and errors in noise are two manifestations of one thing: from the error rate around an "
    "image in Gaussian noise follows about how far away its nearest error is.",
    hypothesis="Across samples, and across networks from fragile to robust, the nearest error that a search finds is the "
    "further away the fewer noisy copies are misclassified; and it is not much nearer than the errors in noise foretell.",
    rules=(
        Rule("across_samples", "rank correlation inside a network, -1 to 1, mean over networks", "above", 0.7, 0.3),
        Rule("across_networks", "rank correlation of network means, -1 to 1", "above", 0.5, 0.0),
        Rule("measured_over_predicted", "ratio of l2 distances, median inside a network, mean", "above", 0.5),
    ),
    caveats="The noise is not clipped to the bounds but the search stays inside them, which makes the distances found a "
    "larger than the formula's. Ratios are of samples of which some noisy copies are errors. At sigma 0.5 a quarter or more "
    "of the noisy copies of digits are errors: far beyond the nearest error, where the noise says less about it.",
    takes_models=True,
    cause=("objective", "radius"),
    full={"sigma": 0.1, "copies": 1000, "samples": 200},
    quick={"samples": 40, "copies": 20, "seeds": 1, "epochs": 1},
)
def gilmer2019(
    lab: Lab, *, sigma: float = 0.5, copies: int = 200, samples: int = 150, seeds: int = 2, epochs: int | None = None
) -> Evidence:
    """Count errors in noise around samples, and compare them with the distance of the nearest error that a search finds.

    Args:
        lab: data, networks, measurements.
        sigma: standard deviation of the noise, in the units of the inputs; large enough for robust networks to err.
        copies: noisy copies of each sample.
        samples: test samples; those classified correctly count.
        seeds: networks of each kind.
        epochs: of each training; those of the recipe if None.

    Returns:
        Three effects: two rank correlations, and the ratio of the distance found and the one foretold.
    """
    batch = lab.samples(samples)
    networks, points = [], []

    def measure(subject: Subject) -> None:
        found = lab.find("noise_error", subject, batch, sigma=sigma, copies=copies).columns
        known = (found["measured_distance"] > 0).nonzero()[:, 0]
        rate, predicted, distance = (
            found[name][known].double().cpu() for name in ("error_rate", "predicted_distance", "measured_distance")
        )
        some = predicted > 0
        points.extend(
            {"network": subject.name, "predicted": float(one), "measured": float(other)}
            for one, other in zip(predicted[some], distance[some], strict=True)
        )
        networks.append(
            {
                "network": subject.name,
                "error_in_noise": 100 * float(rate.mean()),
                "distance": float(distance.mean()),
                "rank_correlation": correlation(-rate, distance).value,
                "measured_over_predicted": float((distance[some] / predicted[some]).median()),
            }
        )

    for subject in lab.subjects(seeds, epochs=epochs):
        measure(subject)
    effects = {
        "across_samples": mean(column(networks, "rank_correlation")),
        "across_networks": correlation(-column(networks, "error_in_noise"), column(networks, "distance")),
        "measured_over_predicted": mean(column(networks, "measured_over_predicted")),
    }
    plots = (
        Plot("points", "points", "predicted", "measured", "network", "Distance of the nearest error, l2"),
        Plot("networks", "points", "error_in_noise", "distance", "network", "Means over the samples"),
    )
    return Evidence(effects, {"networks": networks, "points": points}, plots)
