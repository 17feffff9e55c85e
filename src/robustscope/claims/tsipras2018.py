"""Tsipras 2018: a distribution on which no classifier is both accurate and robust."""

from __future__ import annotations

from collections.abc import Sequence

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import exact
from robustscope.claims.lab import Lab
from robustscope.limits.closed_forms import TSIPRAS, TradeOffModel


@register(
    "tsipras2018",
    version=1,
    source="Tsipras et al., 2019, arXiv:1805.12152, Sec. 2.1 and Theorem 2.1",
    bibtex=TSIPRAS,
    topic="robustness and accuracy",
    finding="There are data on which accuracy and robustness exclude each other, because weak features that help without "
    "an adversary turn against the classifier under one.",
    hypothesis="In the model of one strong and many weak features, the linear classifier that is most accurate is almost "
    "never right under attack, the most robust one gives up accuracy, and none exceeds the bound of the theorem.",
    rules=(
        Rule("robust_accuracy_of_the_most_accurate", "percent, at radius 2 eta", "below", 10.0),
        Rule("accuracy_given_up_by_the_most_robust", "percentage points of standard accuracy", "above", 1.0, 0.0),
        Rule("excess_over_the_bound", "percentage points of robust accuracy, the largest", "below", 1e-9),
    ),
    caveats="Closed forms of linear classifiers, so nothing is left to chance. Whether real data are like this is another "
    "question: see yang2020.",
    data="",
    recipe="",
)
def tsipras2018(
    lab: Lab,
    *,
    values: int = 1000,
    p: float = 0.95,
    weights: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0),
) -> Evidence:
    """Compute standard and robust accuracy of linear classifiers from weak features alone to the strong one alone.

    Args:
        lab: not used.
        values: number of weak features; each has the mean 3 / sqrt(values).
        p: probability that the strong feature is right.
        weights: of the strong feature.

    Returns:
        Three effects, exact.
    """
    eta = 3.0 / values**0.5
    model = TradeOffModel(values, p, eta)
    rows = []
    for weight in weights:
        found = model.errors(weight, 2 * eta)
        bound = 100 * model.bound(found.standard)
        rows.append(
            {
                "strong_weight": weight,
                "standard_accuracy": 100 * (1 - found.standard),
                "robust_accuracy": 100 * (1 - found.robust),
                "bound": bound,
            }
        )
    accurate = max(rows, key=lambda row: row["standard_accuracy"])
    robust = max(rows, key=lambda row: row["robust_accuracy"])
    effects = {
        "robust_accuracy_of_the_most_accurate": exact(accurate["robust_accuracy"]),
        "accuracy_given_up_by_the_most_robust": exact(accurate["standard_accuracy"] - robust["standard_accuracy"]),
        "excess_over_the_bound": exact(max(row["robust_accuracy"] - row["bound"] for row in rows)),
    }
    plot = Plot(
        "classifiers", "lines", "standard_accuracy", "robust_accuracy", title="Linear classifiers, at radius 2 eta"
    )
    return Evidence(effects, {"classifiers": rows}, (plot,))
