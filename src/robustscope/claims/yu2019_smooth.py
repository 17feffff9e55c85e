"""Yu 2019: adversarial training makes the surface around the inputs smooth."""

from __future__ import annotations

import numpy as np

from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, mean, percent
from robustscope.claims.lab import Lab, Subject
from robustscope.probes.why.kl_robustness import BIBTEX


@register(
    "yu2019_smooth",
    version=1,
    source="Yu et al., 2019, arXiv:1905.04270, Sec. 3 and 4",
    bibtex=BIBTEX,
    topic="local smoothness",
    finding="Around the inputs the loss surface of adversarially trained networks is smooth and stable, and psi, one over the "
    "largest divergence of the predicted probabilities nearby, is larger.",
    hypothesis="Psi of adversarially trained networks is at least twice, and the rise of the loss along its gradient at most "
    "half, that of standard ones.",
    rules=(
        Rule("psi_ratio", "ratio of geometric means of psi, adversarial over standard", "above", 2.0, 1.0),
        Rule("rise_ratio", "ratio of mean rises of the loss in nats, adversarial over standard", "below", 0.5, 1.0),
    ),
    caveats="Both figures grow and fall with the scale of the logits, which adversarial training lowers; part of the ratio is "
    "that, and no difference in decisions.",
    cause=("objective",),
    full={"samples": 1000},
    quick={"seeds": 2, "samples": 20, "epochs": 1},
)
def yu2019_smooth(
    lab: Lab, *, objective: str = "pgd", seeds: int = 3, samples: int = 200, epochs: int = 60
) -> Evidence:
    """Measure psi and the rise of the loss around test samples, for networks trained in the standard way and adversarially.

    Args:
        lab: data, networks, measurements.
        objective: of adversarial training.
        seeds: networks of each kind.
        samples: test samples.
        epochs: of each training.

    Returns:
        Two effects: the ratios of psi and of the rise of the loss.
    """
    batch = lab.samples(samples)

    def measure(subject: Subject) -> dict[str, float]:
        psi = lab.find("kl_robustness", subject, batch).columns["log_psi"]
        rise = lab.find("gradient_norm", subject, batch).columns["step_damage"]
        return {
            "accuracy": percent(lab.correct(subject, batch)),
            "log_psi": float(psi.mean()),
            "loss_rise": float(rise.mean()),
        }

    networks = {"standard": {"objective": "standard"}, "adversarial": {"objective": objective}}
    rows = lab.table(networks, seeds, measure, epochs=epochs)
    psi, rise = ({kind: column(rows, name, network=kind) for kind in networks} for name in ("log_psi", "loss_rise"))
    effects = {
        "psi_ratio": mean(np.exp(psi["adversarial"] - psi["standard"])),
        "rise_ratio": mean(rise["adversarial"] / rise["standard"]),
    }
    plot = Plot("networks", "points", "log_psi", "loss_rise", "network", "Smoothness around test samples", ("y",))
    return Evidence(effects, {"networks": rows}, (plot,))
