"""Goodfellow 2015: training on one-step samples withstands one step, and less of more."""

from __future__ import annotations

from robustscope.claims._trained import ahead, objectives
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.training.objectives.fgsm import BIBTEX


@register(
    "goodfellow2015",
    version=1,
    source="Goodfellow, Shlens, Szegedy, 2015, arXiv:1412.6572, Sec. 6",
    bibtex=BIBTEX,
    topic="adversarial training",
    finding="Training on samples of the fast gradient sign method removes most of the errors under that method, and costs no "
    "accuracy on clean samples. Errors under it are not all there are: attacks of many steps find more.",
    hypothesis="Training by FGSM removes errors under FGSM without adding clean errors, and what withstands one step falls in "
    "part to the `audited` search.",
    rules=(
        Rule("errors_removed", "percentage points of error under FGSM, against standard training", "above", 20.0, 5.0),
        Rule("clean_errors_added", "percentage points of clean error, against standard training", "below", 1.0, 3.0),
        Rule(
            "errors_missed", "percentage points of error after FGSM training that FGSM does not find", "above", 5.0, 0.0
        ),
    ),
    caveats="FGSM samples alone, where the paper mixes them with clean ones. The third rule is what Kurakin et al. 2017 and "
    "Madry et al. 2018 add to the paper, which looks at one step.",
    cause=("objective",),
    full={"samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def goodfellow2015(lab: Lab, *, seeds: int = 5, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks on clean samples and by FGSM; count clean errors, errors under FGSM and under `audited`.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Three effects: errors under FGSM removed, clean errors added, errors that FGSM misses.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        return {"fgsm": percent(lab.withstands("fgsm", subject, batch)), **lab.accuracies(subject, batch)}

    rows = lab.table(objectives("standard", "fgsm"), seeds, measure, epochs=epochs)
    effects = {
        "errors_removed": ahead(rows, "fgsm", "fgsm", "standard"),
        "clean_errors_added": ahead(rows, "accuracy", "standard", "fgsm"),
        "errors_missed": difference(column(rows, "fgsm", network="fgsm"), column(rows, "robust", network="fgsm")),
    }
    plot = Plot("networks", "points", "fgsm", "robust", "network", "Accuracy under FGSM and under the whole search, %")
    return Evidence(effects, {"networks": rows}, (plot,))
