"""Shafahi 2019: adversarial training at the price of standard training."""

from __future__ import annotations

from robustscope.claims._trained import COST, ahead, cost, judged, objectives
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.lab import Lab
from robustscope.training.objectives.free import BIBTEX


@register(
    "shafahi2019",
    version=1,
    source="Shafahi et al., 2019, arXiv:1904.12843, Sec. 5",
    bibtex=BIBTEX,
    topic="robustness and resources",
    finding="Updating the weights and the perturbation from the same gradient, and visiting each batch several times in as many "
    "times fewer epochs, gives the robustness of PGD training at the cost of standard training.",
    hypothesis="With the passes of standard training, FREE is far more robust than it, and within a few points of PGD training.",
    rules=(
        Rule("gain", "percentage points of robust accuracy over standard training", "above", 20.0, 5.0),
        Rule("shortfall", "percentage points of robust accuracy below PGD training", "below", 5.0, 10.0),
        Rule("passes", "percent of the backward passes of standard training", "below", 110.0, 150.0),
    ),
    caveats="Epochs divided by the replays are rounded up. Eight visits of each batch in a row leave eight epochs of a small "
    "training set, after which FREE is about five points behind PGD training, whose passes are eleven times as many; five "
    "networks of each kind cannot tell on which side of five.",
    cause=("objective", "parameters", "epochs"),
    full={"samples": 1000, "epochs": 200},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 2, "replays": 2},
)
def shafahi2019(lab: Lab, *, replays: int = 8, seeds: int = 5, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks by FREE in epochs / replays, on clean samples and by PGD; compare robust accuracy and passes.

    Args:
        lab: data, networks, measurements.
        replays: visits of each batch by FREE.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of standard and of PGD training.

    Returns:
        Three effects: gain over standard training, shortfall to PGD training, and passes in percent.
    """
    free = {"objective": "free", "parameters": {"replays": replays}, "epochs": -(-epochs // replays)}
    networks = {**objectives("standard", "pgd"), "free": free}
    rows = judged(lab, networks, seeds, samples, epochs=epochs)
    effects = {
        "gain": ahead(rows, "robust", "free", "standard"),
        "shortfall": ahead(rows, "robust", "pgd", "free"),
        "passes": cost(rows, "free", "standard"),
    }
    return Evidence(effects, {"networks": rows}, (COST,))
