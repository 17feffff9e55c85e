"""Yang 2020: samples of different classes lie far apart, so that a classifier both robust and accurate exists."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, exact, percent
from robustscope.claims.lab import Batch, Lab
from robustscope.geometry.pairwise import nearest
from robustscope.limits.separation import YANG, separation


@register(
    "yang2020_separation",
    version=1,
    source="Yang et al., 2020, arXiv:2003.02460, Sec. 3 and Table 1",
    bibtex=YANG,
    topic="robustness and accuracy",
    finding="In image data the classes are separated by more than twice the radius of attacks, so that a classifier that is "
    "accurate and robust exists: robustness need not cost accuracy.",
    hypothesis="No two samples of different classes, of training and test together, are closer than twice the radius, and "
    "the classifier by the nearest of all these samples is right on every ball.",
    rules=(
        Rule("separation_of_training", "smallest linf distance between classes over twice the radius", "above", 1.0),
        Rule("separation_of_test", "the same, from test to training samples", "above", 1.0),
        Rule("errors_of_the_nearest_neighbour", "percent of samples, at the ends of their balls", "below", 1e-9),
    ),
    caveats="That such a classifier exists for the samples at hand does not say that it can be learnt: the nearest training "
    "sample's class is not robust at the radius for all test samples (see the table).",
    recipe="",
    full={"epsilon": 8 / 255, "samples": 10000},
    quick={"samples": 100},
)
def yang2020_separation(lab: Lab, *, epsilon: float = 0.15, samples: int = 5000) -> Evidence:
    """Measure how far classes lie apart, and attack the nearest-neighbour classifier.

    The attack goes from each sample towards the closest one of another class, to the end of the ball: no point of the
    ball is nearer to it.

    Args:
        lab: data.
        epsilon: linf radius of the balls, in the units of the inputs.
        samples: most samples of each split.

    Returns:
        Three effects, exact.
    """
    train, test = lab.samples(samples, "train"), lab.samples(samples)
    both = Batch(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]), train.ids + test.ids)
    rows = [
        {"samples": "training", "searched": "training", **_row(train, train, epsilon)},
        {"samples": "test", "searched": "training", **_row(test, train, epsilon)},
        {"samples": "both", "searched": "both", **_row(both, both, epsilon)},
    ]
    smallest = column(rows, "smallest")
    effects = {
        "separation_of_training": exact(smallest[0] / (2 * epsilon)),
        "separation_of_test": exact(smallest[1] / (2 * epsilon)),
        "errors_of_the_nearest_neighbour": exact(column(rows, "errors_under_attack")[2]),
    }
    plot = Plot("sets", "bars", "samples", "smallest", title="Smallest linf distance to a sample of another class")
    return Evidence(effects, {"sets": rows}, (plot,))


def _row(batch: Batch, pool: Batch, epsilon: float) -> dict[str, float]:
    """Return how far a set is from other classes, and the errors of the nearest neighbour in a pool."""
    found = separation(batch.x, batch.y, pool.x, pool.y)
    aim = pool.x[found.neighbour]
    attacked = batch.x + (aim - batch.x).clamp(-epsilon, epsilon)
    return {
        "n": found.n,
        "smallest": found.smallest,
        "mean": float(found.distance.mean()),
        "separated": 100 * found.separated(epsilon),
        "errors": _errors(batch.x, batch.y, pool),
        "errors_under_attack": _errors(attacked, batch.y, pool),
    }


def _errors(x: Tensor, y: Tensor, pool: Batch) -> float:
    """Return how many percent of inputs have a nearest pool sample of another class."""
    of_no_class = torch.full_like(y, -1)  # so that all of the pool count as another
    index = nearest("linf", x, of_no_class, pool.x, pool.y)[1]
    return percent(pool.y[index] != y)
