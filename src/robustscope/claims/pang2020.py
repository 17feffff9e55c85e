"""Pang 2020: pulling classes to fixed centres makes a network more robust than softmax cross-entropy does."""

from __future__ import annotations

from robustscope.claims._trained import TRADE, ahead, judged, objectives
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.lab import Lab
from robustscope.training.objectives.mmc import BIBTEX


@register(
    "pang2020",
    version=1,
    source="Pang et al., 2020, arXiv:1905.10626, Sec. 4",
    bibtex=BIBTEX,
    topic="adversarial training",
    finding="Drawing the features of each class to a fixed centre, far from the others, gives a more robust network than softmax "
    "cross-entropy, with adversarial training and without, also under adaptive attacks.",
    hypothesis="Under the `audited` search, which sees the same logits that the network decides by, training on the distance to "
    "the centres is more robust than on cross-entropy: on clean samples, and on PGD samples.",
    rules=(
        Rule("clean_training", "percentage points of robust accuracy over standard training", "above", 5.0, 2.0),
        Rule("pgd_training", "percentage points of robust accuracy over PGD training", "above", 1.0, 0.0),
    ),
    caveats="The centres stand in the space of the logits, and the networks are small. On clean samples the search breaks nearly all "
    "of both, as re-evaluations of the paper's loss did; on PGD samples neither is ahead.",
    cause=("objective", "parameters"),
    full={"samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def pang2020(lab: Lab, *, seeds: int = 4, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks on cross-entropy and on the distance to centres, with clean and with PGD samples; compare.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: robust accuracy gained in training on clean samples, and on PGD samples.
    """
    clean = {"mmc on clean samples": {"objective": "mmc", "parameters": {"steps": 0}}}
    rows = judged(lab, {**objectives("standard", "pgd", "mmc"), **clean}, seeds, samples, epochs=epochs)
    effects = {
        "clean_training": ahead(rows, "robust", "mmc on clean samples", "standard"),
        "pgd_training": ahead(rows, "robust", "mmc", "pgd"),
    }
    return Evidence(effects, {"networks": rows}, (TRADE,))
