"""Balunovic 2020: what can be certified is paid for with accuracy."""

from __future__ import annotations

from robustscope.certify import certify
from robustscope.claims._trained import ahead, passes
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import percent
from robustscope.claims.lab import Lab, Subject
from robustscope.training.objectives.colt import BIBTEX


@register(
    "balunovic2020",
    version=1,
    source="Balunovic & Vechev, 2020, ICLR, Sec. 1 and 5",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="Adversarial training gives accurate networks whose robustness cannot be proven, provable training gives certificates "
    "at the price of accuracy.",
    hypothesis="Training on interval bounds gains certified accuracy over PGD training, and loses clean accuracy.",
    rules=(
        Rule("certified_gained", "percentage points of accuracy certified by CROWN over PGD", "above", 20.0, 5.0),
        Rule("accuracy_lost", "percentage points of clean accuracy below PGD training", "above", 1.0, 0.0),
    ),
    caveats="Interval bounds stand for provable training; COLT, which the paper offers to bridge the gap, takes minutes for each "
    "network. CROWN gives lower bounds: more may be robust than it certifies. The accuracy lost on digits, "
    "under two points, is too little for four networks of each kind.",
    cause=("objective", "epsilon_ramp"),
    full={"samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast-small",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def balunovic2020(
    lab: Lab, *, certifier: str = "crown", seeds: int = 4, samples: int = 300, epochs: int = 60
) -> Evidence:
    """Train networks by PGD and on interval bounds; compare clean, robust and certified accuracy.

    Args:
        lab: data, networks, measurements.
        certifier: method that certifies.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: certified accuracy gained, and clean accuracy lost.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        proof = certify(certifier, subject.model, batch.x, batch.y, lab.threat)
        return {**lab.accuracies(subject, batch), "certified": percent(proof.verified), **passes(subject)}

    networks = {"pgd": {"objective": "pgd"}, "ibp": {"objective": "ibp", "epsilon_ramp": 0.5}}
    rows = lab.table(networks, seeds, measure, epochs=epochs)
    effects = {
        "certified_gained": ahead(rows, "certified", "ibp", "pgd"),
        "accuracy_lost": ahead(rows, "accuracy", "pgd", "ibp"),
    }
    plot = Plot("networks", "points", "accuracy", "certified", "network", "Accuracy and certified accuracy, %")
    return Evidence(effects, {"networks": rows}, (plot,))
