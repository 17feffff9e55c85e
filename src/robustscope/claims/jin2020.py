"""Jin 2020: the same outputs and the same active units around a sample make a network robust without an attack."""

from __future__ import annotations

from robustscope.claims._trained import TRADE, ahead, objectives, passes
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.effects import percent
from robustscope.claims.lab import Lab, Subject
from robustscope.training.objectives.manifold import BIBTEX


@register(
    "jin2020",
    version=1,
    source="Jin & Rinard, 2020, arXiv:2003.04286, Sec. 3 and 4",
    bibtex=BIBTEX,
    topic="adversarial training",
    finding="Penalising how outputs and active units differ between two random corners of the ball makes a network robust, "
    "without adversarial training.",
    hypothesis="Under the `audited` search, networks trained with this penalty are more robust than by standard training.",
    rules=(Rule("gain", "percentage points of robust accuracy over standard training", "above", 5.0, 0.0),),
    caveats="More robust than standard training is not as robust as adversarial training: on digits the penalty keeps a third of "
    "what PGD training keeps, and PGD-10 alone (column pgd) would say nearly twice as much. The authors' weights are not "
    "public. AutoAttack left 1 % of the 71 % first published.",
    cause=("objective",),
    full={"samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def jin2020(lab: Lab, *, seeds: int = 4, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks with the penalty, without, and by PGD; compare robust accuracy.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        One effect: robust accuracy gained over standard training.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        under_pgd = percent(lab.withstands("pgd", subject, batch, steps=10))
        return {**lab.accuracies(subject, batch), "pgd": under_pgd, **passes(subject)}

    rows = lab.table(objectives("standard", "manifold", "pgd"), seeds, measure, epochs=epochs)
    return Evidence({"gain": ahead(rows, "robust", "manifold", "standard")}, {"networks": rows}, (TRADE,))
