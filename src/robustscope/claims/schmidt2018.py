"""Schmidt 2018: robust generalisation needs more samples, unless the inputs are rounded first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, exact, mean
from robustscope.claims.lab import Lab
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.limits.closed_forms import SCHMIDT, BernoulliModel, GaussianModel


@register(
    "schmidt2018",
    version=1,
    source="Schmidt et al., 2018, arXiv:1804.11285, Theorems 4 to 10",
    bibtex=SCHMIDT,
    topic="robustness and resources",
    finding="For Gaussian classes one sample is enough to classify well, and sqrt(d) times as many are needed to classify "
    "robustly. For binary data too, unless a threshold stands in front of the classifier: then one sample is enough again.",
    hypothesis="After one Gaussian sample the classifier is right without an adversary and wrong under one, and the samples needed "
    "to be robust grow like the square root of the dimension; after one binary sample a threshold makes up the difference.",
    rules=(
        Rule("error_after_one", "percent without an adversary, Gaussian, the mean over learned weights", "below", 1.0),
        Rule("robust_error_after_one", "percent under attack, Gaussian, the mean over learned weights", "above", 50.0),
        Rule("exponent_off", "distance of the exponent of d in the samples needed from 1/2", "below", 0.1, 0.25),
        Rule("binary_robust_error", "percent under attack after one sample, linear", "above", 50.0),
        Rule("binary_with_threshold", "percent under attack after one sample, behind a threshold", "below", 1.0),
    ),
    caveats="sqrt(d) is an asymptote: between 100 and a million values the samples needed, 5 to 60, grow with an exponent of "
    "0.28; from 10^8 on it is 1/2 (the full protocol). The samples needed are those of the mean estimator, in the limit of many values; that no algorithm needs many fewer "
    "is the theorem's lower bound, which no experiment shows.",
    data="",
    recipe="",
    full={"values": (10**8, 10**9, 10**10, 10**11, 10**12)},
    quick={"trials": 5, "values": (64, 256, 1024)},
)
def schmidt2018(
    lab: Lab,
    *,
    values: Sequence[int] = (100, 1000, 10_000, 100_000, 1_000_000),
    spread: float = 0.5,
    epsilon: float = 0.5,
    error: float = 0.01,
    shown: int = 1000,
    trials: int = 100,
) -> Evidence:
    """Learn from one sample with exact errors, and compute how many samples robustness needs in each dimension.

    Args:
        lab: not used, but for its seed.
        values: dimensions d, rising.
        spread: standard deviation of each value, as a multiple of d^(1/4).
        epsilon: linf radius of the Gaussian model, whose class means are +-1, and of the binary one.
        error: robust error to be reached.
        shown: dimension in which classifiers are learned from one sample.
        trials: samples, each of which a classifier is learned from.

    Returns:
        Five effects: two of classifiers learned from one sample each, three exact.

    Raises:
        InvalidValue: where no number of samples reaches the error.
    """
    rows = []
    for d in values:
        model = GaussianModel(d, spread * d**0.25)
        needed = model.sample_complexity(epsilon, error)
        if needed is None:
            raise InvalidValue(
                f"epsilon={epsilon} and error={error} were given for d={d}",
                "an error that some number of samples reaches is allowed",
                "Take a smaller epsilon, a larger error, or more values.",
            )
        rows.append({"d": d, "needed": model.sample_complexity(0.0, error), "needed_to_be_robust": needed})
    slope = np.polyfit(np.log(column(rows, "d")), np.log(column(rows, "needed_to_be_robust")), 1)[0]
    model = GaussianModel(shown, spread * shown**0.25)
    x, y = model.sample(Draws(lab.setting.seed, tuple(range(trials)), "claims/schmidt2018"))
    learned = [model.errors(model.fit(x[i : i + 1], y[i : i + 1]), epsilon) for i in range(trials)]
    binary = BernoulliModel(shown, shown**-0.25)
    effects = {
        "error_after_one": mean([100 * found.standard for found in learned], "samples learned from"),
        "robust_error_after_one": mean([100 * found.robust for found in learned], "samples learned from"),
        "exponent_off": exact(abs(slope - 0.5)),
        "binary_robust_error": exact(100 * binary.one_sample(epsilon).robust),
        "binary_with_threshold": exact(100 * binary.one_sample(epsilon, threshold=True).robust),
    }
    title = "Samples to reach the error under attack"
    plot = Plot("samples", "lines", "d", "needed_to_be_robust", title=title, logarithmic=("x", "y"))
    return Evidence(effects, {"samples": rows}, (plot,))
