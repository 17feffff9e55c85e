"""Fawzi 2015: a classifier that is not flexible enough for its task can be accurate and yet not robust."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import exact
from robustscope.claims.lab import Lab
from robustscope.limits.fawzi import FAWZI, fawzi_linear, fawzi_quadratic, line_images


@register(
    "fawzi2015_flexibility",
    version=1,
    source="Fawzi, Fawzi and Frossard, 2018, arXiv:1502.02590, Sec. 2 and 4",
    bibtex=FAWZI,
    topic="local smoothness",
    finding="Adversarial examples are partly due to the low flexibility of classifiers for the difficulty of their task: a "
    "perfectly accurate classifier from a family that cannot see the concept is not robust.",
    hypothesis="On images of a vertical or a horizontal line, whose mean betrays the class by a small bias, the linear "
    "classifier is always right and as fragile as the bias is small; the quadratic one is right and robust for any bias.",
    rules=(
        Rule("risk", "percent of the images misclassified by either classifier, the largest", "below", 1e-9),
        Rule("linear_at_the_small_bias", "percent of the quadratic classifier's robustness", "below", 10.0, 100.0),
        Rule("best_linear_over_its_bound", "robustness over the largest of any linear classifier", "above", 0.99),
        Rule("change_of_the_quadratic", "percent by which its robustness varies with the bias", "below", 1.0, 10.0),
    ),
    caveats="The paper's running example of four pixels, in closed form. Trained classifiers of other families stand in "
    "fawzi2015.",
    data="",
    recipe="",
)
def fawzi2015_flexibility(lab: Lab, *, biases: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)) -> Evidence:
    """Compute the robustness of a linear and of a quadratic classifier of lines, for rising bias.

    Args:
        lab: not used.
        biases: what is added to the pixels of one class and taken from those of the other.

    Returns:
        Four effects, exact.
    """
    lines = torch.tensor([[0, -1, 1, 0], [-1, 0, 0, 1], [1, 0, 0, -1], [0, 1, -1, 0]], dtype=torch.float64) / 2
    rows = []
    for bias in biases:
        x, y = line_images(bias)
        linear = fawzi_linear(x, y, torch.full((4,), 0.5, dtype=torch.float64), -1.0)
        quadratic = fawzi_quadratic(x, y, lines)
        rows.append(
            {
                "bias": bias,
                "linear": float(linear.distance.mean()),
                "quadratic": float(quadratic.distance.mean()),
                "linear_bound": linear.distinguishability,
                "linear_risk": 100 * linear.risk,
                "quadratic_risk": 100 * quadratic.risk,
            }
        )
    first, flexible = rows[0], [row["quadratic"] for row in rows]
    effects = {
        "risk": exact(max(max(row["linear_risk"], row["quadratic_risk"]) for row in rows)),
        "linear_at_the_small_bias": exact(100 * first["linear"] / first["quadratic"]),
        "best_linear_over_its_bound": exact(min(row["linear"] / row["linear_bound"] for row in rows)),
        "change_of_the_quadratic": exact(100 * (max(flexible) / min(flexible) - 1)),
    }
    both = [
        {"bias": row["bias"], "classifier": name, "robustness": row[name]}
        for row in rows
        for name in ("linear", "quadratic")
    ]
    plot = Plot("robustness", "lines", "bias", "robustness", "classifier", "Mean distance to the boundary, l2")
    return Evidence(effects, {"classifiers": rows, "robustness": both}, (plot,))
