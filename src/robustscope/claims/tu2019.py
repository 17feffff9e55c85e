"""Tu 2019: an adversary is no worse than the worst distribution nearby."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse, stats
from scipy.optimize import linprog

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, exact
from robustscope.claims.lab import Lab
from robustscope.core.draws import Draws

BIBTEX = """@inproceedings{tu2019theoretical,
  title = {Theoretical Analysis of Adversarial Learning: A Minimax Approach},
  author = {Tu, Zhuozhuo and Zhang, Jingwei and Tao, Dacheng},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019}
}"""


@register(
    "tu2019",
    version=1,
    source="Tu, Zhang, Tao, 2019, arXiv:1811.05232, Sec. 3",
    bibtex=BIBTEX,
    topic="adversarial training",
    finding="What an adversary makes of the data is a distribution within its radius in the Wasserstein distance, so that the "
    "adversarial risk is at most the worst risk over the distributions in that ball.",
    hypothesis="For random losses on a line, at every radius, the adversarial samples lie within the radius of the clean ones, "
    "and the adversarial risk does not exceed the worst risk, found by linear programming.",
    rules=(
        Rule(
            "transport", "Wasserstein distance to the adversarial samples over the radius, largest", "below", 1 + 1e-9
        ),
        Rule("excess", "adversarial risk less the worst risk over distributions, largest", "below", 1e-7),
    ),
    caveats="Exact up to the solver, on a grid of one dimension, where both risks can be computed. How close the bound is for "
    "networks, whose risk over the ball nobody can compute, it does not say.",
    data="",
    recipe="",
    quick={"losses": 3, "points": 51},
)
def tu2019(
    lab: Lab,
    *,
    losses: int = 20,
    epsilons: Sequence[float] = (0.02, 0.05, 0.1, 0.2),
    samples: int = 20,
    waves: int = 6,
    points: int = 101,
) -> Evidence:
    """Compute the adversarial risk of random classifiers on a line, and the worst risk over a Wasserstein ball.

    Args:
        lab: not used, but for its seed.
        losses: random classifiers, sums of sines with the logistic loss.
        epsilons: radii, of the adversary and of the ball.
        samples: points of the grid with classes; labels cannot be moved.
        waves: sines of each classifier.
        points: of the grid on [0, 1].

    Returns:
        Two effects, exact up to the solver.
    """
    grid = np.linspace(0, 1, points)
    rows = []
    for number in range(losses):
        draws = Draws(lab.setting.seed, (number,), "claims/tu2019")
        weights, phases = (draws.normal(name, torch.empty(1, waves, dtype=torch.float64))[0].numpy() for name in "wp")
        scores = np.sin(2 * np.pi * np.outer(grid, np.arange(1, waves + 1)) + 2 * np.pi * phases) @ weights
        at = draws.integers("x", samples, 0, points)[0].numpy()
        y = 2 * draws.integers("y", samples, 0, 2)[0].numpy() - 1
        loss = np.logaddexp(0, -y[:, None] * scores)
        moved = np.abs(grid[at][:, None] - grid)
        for epsilon in epsilons:
            reached = np.where(moved <= epsilon * (1 + 1e-12), loss, -np.inf).argmax(1)
            rows.append(
                {
                    "loss": number,
                    "epsilon": epsilon,
                    "clean_risk": float(loss[np.arange(samples), at].mean()),
                    "adversarial_risk": float(loss[np.arange(samples), reached].mean()),
                    "worst_risk": _worst_risk(loss, moved, epsilon),
                    "transport": _distance(grid[at], grid[reached], y) / epsilon,
                }
            )
    excess = column(rows, "adversarial_risk") - column(rows, "worst_risk")
    effects = {"transport": exact(column(rows, "transport").max()), "excess": exact(excess.max())}
    plot = Plot(
        "risks", "points", "adversarial_risk", "worst_risk", "epsilon", "Adversarial risk, and worst risk in the ball"
    )
    return Evidence(effects, {"risks": rows}, (plot,))


def _distance(clean: np.ndarray, moved: np.ndarray, y: np.ndarray) -> float:
    """Return the Wasserstein distance of samples (n,) of two classes, between which no mass may go."""
    parts = [(y == label) for label in np.unique(y)]
    return float(sum(part.mean() * stats.wasserstein_distance(clean[part], moved[part]) for part in parts))


def _worst_risk(loss: np.ndarray, moved: np.ndarray, epsilon: float) -> float:
    """Return the largest mean loss after moving each sample's mass anywhere, epsilon far on average.

    Args:
        loss, moved: (n, G), loss and distance of each sample at each point.
        epsilon: radius.
    """
    n, points = loss.shape
    each = sparse.kron(sparse.eye_array(n), np.ones((1, points)))
    found = linprog(-loss.ravel() / n, moved.reshape(1, -1) / n, [epsilon], each, np.ones(n), method="highs")
    return -float(found.fun)
