"""What the claims about pruned networks share: the distance to adversarial examples beside that of the dense network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustscope.claims.cards import Effect, Plot
from robustscope.claims.effects import column, mean, percent
from robustscope.claims.lab import Lab

PLOTS = (
    Plot("networks", "points", "pruned", "distance_gain", "seed", "Distance to adversarial examples over dense, %"),
    Plot("networks", "points", "pruned", "accuracy", "seed", "Accuracy, %"),
)


def pruned_beside_dense(
    lab: Lab, amounts: Sequence[float], *, method: str, seeds: int, samples: int, epochs: int
) -> list[dict[str, Any]]:
    """Train dense and pruned networks, and compare them in pairs on the samples that both classify correctly.

    Args:
        lab: data, networks, measurements.
        amounts: shares of the weights that are 0 at the end.
        method: "magnitude" or "surgery".
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        A row for each share, 0 first, and seed: accuracy and robust accuracy in percent, and by how much the mean distance to
        the nearest adversarial example found differs from the dense network's, in percent.
    """
    batch, rows = lab.samples(samples), []
    threat = lab.threat.scaled(1 / 3)
    for seed in range(seeds):
        dense = lab.network(seed, objective="standard", epochs=epochs)
        before = lab.distance(dense, batch)
        for amount in (0.0, *amounts):
            plan = {"amount": amount, "method": method, "begin": 0.1, "end": 0.5}
            network = lab.network(seed, objective="standard", epochs=epochs, sparsity=plan) if amount else dense
            after = lab.distance(network, batch)
            both = (before > 0) & (after > 0) & before.isfinite() & after.isfinite()
            rows.append(
                {
                    "pruned": amount,
                    "seed": seed,
                    "accuracy": percent(lab.correct(network, batch)),
                    "robust_at_a_third": percent(lab.robust(network, batch, threat)),
                    "compared": int(both.sum()),
                    "distance_gain": float(100 * (after[both].mean() / before[both].mean() - 1)),
                }
            )
    return rows


def gain(rows: Sequence[dict[str, Any]], amount: float) -> Effect:
    """Return the mean gain in distance of a share."""
    return mean(column(rows, "distance_gain", pruned=amount))
