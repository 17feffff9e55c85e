"""Balaji 2019: a radius for each sample gives back accuracy at little cost in robustness."""

from __future__ import annotations

from robustscope.claims._trained import TRADE, ahead, objectives, passes
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.effects import percent
from robustscope.claims.lab import Lab, Subject
from robustscope.training.objectives.iaat import BIBTEX


@register(
    "balaji2019",
    version=1,
    source="Balaji, Goldstein, Hoffman, 2019, arXiv:1910.08051, Sec. 4",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="Adversarial training with a radius of its own for each sample, as large as the sample bears, classifies clean "
    "samples more accurately than training at one radius, and is only slightly less robust.",
    hypothesis="Instance-adaptive training has a higher clean accuracy than PGD training, and a robust accuracy within five "
    "points of it.",
    rules=(
        Rule("accuracy_gained", "percentage points of clean accuracy over PGD training", "above", 0.5, 0.0),
        Rule("robustness_lost", "percentage points of robust accuracy below PGD training", "below", 5.0, 10.0),
    ),
    caveats="On digits, PGD training itself costs next to no accuracy, so that there is little to give back.",
    cause=("objective",),
    full={"samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def balaji2019(lab: Lab, *, seeds: int = 3, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks by IAAT and by PGD; compare clean accuracy on all test samples, and robust accuracy.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples that are attacked.
        epochs: of each training.

    Returns:
        Two effects: accuracy gained, and robust accuracy lost.
    """
    batch, everyone = lab.samples(samples), lab.samples(len(lab.test_set))

    def measure(subject: Subject) -> dict[str, float]:
        accuracy, robust = percent(lab.correct(subject, everyone)), percent(lab.robust(subject, batch))
        return {"accuracy": accuracy, "robust": robust, **passes(subject)}

    rows = lab.table(objectives("pgd", "iaat"), seeds, measure, epochs=epochs)
    effects = {
        "accuracy_gained": ahead(rows, "accuracy", "iaat", "pgd"),
        "robustness_lost": ahead(rows, "robust", "pgd", "iaat"),
    }
    return Evidence(effects, {"networks": rows}, (TRADE,))
