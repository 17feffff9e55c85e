"""Guo 2018: networks with fewer weights are harder to fool, up to a point."""

from __future__ import annotations

from robustscope.claims._pruning import PLOTS, gain, pruned_beside_dense
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.lab import Lab
from robustscope.probes.why.weight_sparsity import BIBTEX


@register(
    "guo2018",
    version=1,
    source="Guo et al., 2018, arXiv:1810.09619, Sec. 3",
    bibtex=BIBTEX,
    topic="model sparsity",
    finding="Moderate pruning of the weights of a network trained in the standard way makes it harder to fool.",
    hypothesis="Of samples that both classify correctly, the nearest adversarial example of a network with four fifths of "
    "its weights pruned in training is farther away than that of the dense network.",
    rules=(Rule("gain", "percent of the dense network's mean l2 distance to adversarial examples", "above", 5.0, 0.0),),
    caveats="DeepFool bounds the distance from above. Pruning is by magnitude at a rising share, where the source "
    "lets weights come back. All five pairs gain, by 5 to 13 %: the interval of so few reaches below what "
    "would matter.",
    cause=("sparsity",),
    full={"seeds": 3, "samples": 1000, "epochs": 100},
    quick={"seeds": 2, "samples": 40, "epochs": 2},
)
def guo2018(
    lab: Lab, *, amount: float = 0.8, method: str = "magnitude", seeds: int = 5, samples: int = 300, epochs: int = 60
) -> Evidence:
    """Prune networks while they are trained, and measure distances to adversarial examples beside dense ones.

    Args:
        lab: data, networks, measurements.
        amount: share of the weights that are 0 at the end.
        method: "magnitude": what is pruned stays 0; "surgery": it may come back, as in the source.
        seeds: pairs of networks.
        samples: test samples.
        epochs: of each training.

    Returns:
        One effect: the gain in distance.
    """
    rows = pruned_beside_dense(lab, (amount,), method=method, seeds=seeds, samples=samples, epochs=epochs)
    return Evidence({"gain": gain(rows, amount)}, {"networks": rows}, PLOTS)
