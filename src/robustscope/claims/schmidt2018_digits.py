"""Schmidt 2018: on pictures, too, robustness lives on samples more than accuracy does."""

from __future__ import annotations

from collections.abc import Sequence

from robustscope.claims._trained import Rows, both, gained, judged
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.effects import difference
from robustscope.claims.lab import Lab
from robustscope.limits.closed_forms import SCHMIDT


@register(
    "schmidt2018_digits",
    version=1,
    source="Schmidt et al., 2018, arXiv:1804.11285, Sec. 3",
    bibtex=SCHMIDT,
    topic="robustness and resources",
    finding="On real pictures the robust accuracy of adversarial training goes on rising with the training set where clean "
    "accuracy has long levelled off.",
    hypothesis="With a quarter of the training set, PGD training loses far more robust accuracy than it, or standard training, "
    "loses clean accuracy.",
    rules=(
        Rule("lost_beyond_clean", "percentage points of robust less those of clean accuracy, PGD", "above", 3.0, 0.0),
        Rule("lost_beyond_standard", "percentage points less those of clean accuracy, standard", "above", 3.0, 0.0),
    ),
    caveats="Fewer samples are visited more often, so that all networks are updated as often.",
    cause=("samples", "epochs"),
    full={"shares": (0.125, 0.25, 0.5, 1.0), "samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"shares": (0.5, 1.0), "seeds": 2, "samples": 10, "epochs": 1},
)
def schmidt2018_digits(
    lab: Lab, *, shares: Sequence[float] = (0.25, 1.0), seeds: int = 3, samples: int = 300, epochs: int = 60
) -> Evidence:
    """Train by PGD and on clean samples with parts of the training set; compare what is lost.

    Args:
        lab: data, networks, measurements.
        shares: of the training set, rising.
        seeds: networks of each kind and share.
        samples: test samples.
        epochs: of the trainings with all samples.

    Returns:
        Two effects: robust accuracy lost beyond the clean accuracy that the same networks, or those of standard training, lose.
    """
    rows: Rows = []
    for share in shares:
        part = {} if share == 1 else {"samples": round(share * len(lab.train_set)), "epochs": round(epochs / share)}
        networks = {name: {"objective": name, **part} for name in ("standard", "pgd")}
        rows += [{"share": share, **row} for row in judged(lab, networks, seeds, samples, epochs=epochs)]

    robust = gained(rows, "share", "robust", "pgd")
    effects = {
        "lost_beyond_clean": difference(robust, gained(rows, "share", "accuracy", "pgd")),
        "lost_beyond_standard": difference(robust, gained(rows, "share", "accuracy", "standard")),
    }
    return Evidence(effects, {"networks": rows}, both("share", "and share of the training set"))
