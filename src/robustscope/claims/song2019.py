"""Song 2019: seeing clean and adversarial samples as two domains narrows the gap between them."""

from __future__ import annotations

from robustscope.claims._trained import TRADE, ahead, judged, objectives
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.lab import Lab
from robustscope.training.objectives.atda import BIBTEX


@register(
    "song2019",
    version=1,
    source="Song et al., 2019, arXiv:1810.00740, Sec. 4",
    bibtex=BIBTEX,
    topic="robustness and accuracy",
    finding="Aligning the logits of clean and adversarial samples during one-step training generalises better to attacks it was "
    "not trained on, and narrows the gap between clean and robust accuracy.",
    hypothesis="Against plain FGSM training, training with domain adaptation has a higher robust accuracy under the `audited` "
    "search, and a smaller gap between clean and robust accuracy.",
    rules=(
        Rule("robust_gained", "percentage points of robust accuracy over FGSM training", "above", 1.0, 0.0),
        Rule("gap_narrowed", "percentage points of clean less robust accuracy, against FGSM", "above", 2.0, 0.0),
    ),
    caveats="FGSM training does not overfit on digits, so that there is less to mend than on the paper's data. What adaptation "
    "gains here is clean accuracy, which widens the gap; the paper's plain FGSM training mixes clean samples in, too.",
    cause=("objective",),
    full={"samples": 1000, "epochs": 30},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "samples": 10, "epochs": 1},
)
def song2019(lab: Lab, *, seeds: int = 5, samples: int = 300, epochs: int = 60) -> Evidence:
    """Train networks by ATDA and by FGSM; compare robust accuracy, and its distance from clean accuracy.

    Args:
        lab: data, networks, measurements.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: robust accuracy gained, and gap narrowed.
    """
    rows = judged(lab, objectives("fgsm", "atda"), seeds, samples, epochs=epochs)
    rows = [{**row, "gap": row["accuracy"] - row["robust"]} for row in rows]
    effects = {
        "robust_gained": ahead(rows, "robust", "atda", "fgsm"),
        "gap_narrowed": ahead(rows, "gap", "fgsm", "atda"),
    }
    return Evidence(effects, {"networks": rows}, (TRADE,))
