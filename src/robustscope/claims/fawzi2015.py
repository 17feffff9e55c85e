"""Fawzi 2015: random noise must be longer than adversarial perturbations, by a factor that grows like sqrt(d)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustscope.claims._resized import resized, resized_batch
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, exact, mean
from robustscope.claims.lab import Lab
from robustscope.limits.fawzi import FAWZI
from robustscope.limits.noise import noise_radius, noise_ratio


@register(
    "fawzi2015",
    version=1,
    source="Fawzi, Fawzi and Frossard, 2018, arXiv:1502.02590, Theorem 3 and Sec. 5",
    bibtex=FAWZI,
    topic="benchmarks and bounds",
    finding="Classifiers are more robust to random noise than to adversarial perturbations, for linear ones by a factor of "
    "the order of the square root of the dimension.",
    hypothesis="Noise over adversarial robustness grows with d as a power near 1/2, exactly so for linear classifiers, and "
    "for networks trained on the same pictures at several sizes.",
    rules=(
        Rule("exponent_linear", "power of d, exact, linear classifiers", "above", 0.45, 0.3),
        Rule("exponent_trained", "power of d, mean over seeds", "above", 0.25, 0.1),
        Rule("departure_trained", "distance of that power from 1/2, mean over seeds", "below", 0.2, 0.35),
        Rule("ratio_trained", "noise over adversarial robustness at the largest size", "above", 3.0, 1.0),
    ),
    caveats="Larger pictures are the same ones interpolated, so that they hold no more detail. DeepFool's distances are upper "
    "bounds, which makes the ratio of networks a lower one.",
    full={"sides": (8, 16, 32), "samples": 100, "directions": 1000},
    quick={"sides": (4, 8), "seeds": 2, "samples": 10, "directions": 100, "epochs": 2},
)
def fawzi2015(
    lab: Lab,
    *,
    sides: Sequence[int] = (4, 8, 16, 32),
    seeds: int = 3,
    samples: int = 30,
    risk: float = 0.01,
    directions: int = 300,
    epochs: int = 60,
) -> Evidence:
    """Train networks on pictures at several sizes; compare the noise and the perturbation that change their decisions.

    Args:
        lab: data, networks, measurements.
        sides: heights and widths of the pictures.
        seeds: networks of each size.
        samples: test samples; those that a network has right count.
        risk: share of directions of noise that changes the decision.
        directions: tried for each sample.
        epochs: of each training.

    Returns:
        The exponent for linear classifiers, exact, and for networks across seeds.
    """
    batch, channels = lab.samples(samples), lab.train_set.shape[0]
    rows = []
    for side in sides:
        data, part = resized(lab.train_set, side), resized_batch(batch, side)
        values = channels * side**2
        for seed in range(seeds):
            network = lab.network(seed, name=f"{side} pixels", data=data, objective="standard", epochs=epochs)
            right = lab.correct(network, part)
            near = lab.distance(network, part)
            draws = lab.draws("noise", part)
            noise = noise_radius(network.model, part.x, draws=draws, risk=risk, directions=directions)
            counted = (right & near.isfinite()).cpu() & ~noise.beyond
            rows.append(
                {
                    "values": values,
                    "seed": seed,
                    "samples": int(counted.sum()),
                    "adversarial": float(near.cpu()[counted].double().mean()),
                    "noise": float(noise.radius[counted].mean()),
                    "linear": noise_ratio(values=values, risk=risk).exact,
                }
            )
    rows = [{**row, "ratio": row["noise"] / row["adversarial"]} for row in rows]
    powers = [_power(column(rows, "values", seed=seed), column(rows, "ratio", seed=seed)) for seed in range(seeds)]
    large = np.array([100, 1000, 10_000, 100_000])
    effects = {
        "exponent_linear": exact(_power(large, [noise_ratio(values=int(d), risk=risk).exact for d in large])),
        "exponent_trained": mean(powers),
        "departure_trained": mean([abs(power - 0.5) for power in powers]),
        "ratio_trained": mean(column(rows, "ratio", values=channels * max(sides) ** 2)),
    }
    title = "Noise over adversarial robustness"
    plots = tuple(
        Plot("networks", "lines", "values", y, by, title, ("x", "y")) for y, by in (("ratio", "seed"), ("linear", ""))
    )
    return Evidence(effects, {"networks": rows}, plots)


def _power(values: Sequence[float] | np.ndarray, ratios: Sequence[float] | np.ndarray) -> float:
    """Return the slope of log ratio on log d, by least squares."""
    return float(np.polyfit(np.log(values), np.log(ratios), 1)[0])
