"""Guo 2018: networks with too few weights are easier to fool than dense ones."""

from __future__ import annotations

from robustscope.claims._pruning import PLOTS, gain, pruned_beside_dense
from robustscope.claims.cards import Evidence, Rule, register
from robustscope.claims.lab import Lab
from robustscope.probes.why.weight_sparsity import BIBTEX


@register(
    "guo2018_overpruned",
    version=1,
    source="Guo et al., 2018, arXiv:1810.09619, Sec. 3",
    bibtex=BIBTEX,
    topic="model sparsity",
    finding="Pruning too much undoes the gain: over-pruned networks are easier to fool than dense ones.",
    hypothesis="Of samples that both classify correctly, the nearest adversarial example of a network with 98 % of its "
    "weights pruned in training is nearer than that of the dense network.",
    rules=(
        Rule("gain", "percent of the dense network's mean l2 distance to adversarial examples", "below", -5.0, 0.0),
    ),
    caveats="The comparison is sample by sample, for an over-pruned network keeps the easiest samples. With 98 % "
    "pruned a perceptron on digits still classifies 95 % correctly, so that it is hardly over-pruned yet.",
    cause=("sparsity",),
    full={"seeds": 3, "samples": 1000, "epochs": 100},
    quick={"amount": 0.5, "moderate": (), "seeds": 2, "samples": 40, "epochs": 2},
)
def guo2018_overpruned(
    lab: Lab,
    *,
    amount: float = 0.98,
    moderate: tuple[float, ...] = (0.8,),
    method: str = "magnitude",
    seeds: int = 5,
    samples: int = 300,
    epochs: int = 60,
) -> Evidence:
    """Prune networks while they are trained, and measure distances to adversarial examples beside dense ones.

    Args:
        lab: data, networks, measurements.
        amount: share of the weights that are 0 at the end.
        moderate: shares that the table shows beside it.
        method: "magnitude": what is pruned stays 0; "surgery": it may come back, as in the source.
        seeds: pairs of networks.
        samples: test samples.
        epochs: of each training.

    Returns:
        One effect: the gain in distance, negative where it is lost.
    """
    rows = pruned_beside_dense(lab, (*moderate, amount), method=method, seeds=seeds, samples=samples, epochs=epochs)
    return Evidence({"gain": gain(rows, amount)}, {"networks": rows}, PLOTS)
