"""Sparsity of the weights: how many are zero, and how unequal the others are."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.sparsity import gini, hoyer

BIBTEX = """@inproceedings{guo2018sparse,
  title = {Sparse {DNNs} with Improved Adversarial Robustness},
  author = {Guo, Yiwen and Zhang, Chao and Zhang, Changshui and Chen, Yurong},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018}
}"""


@register(
    "weight_sparsity",
    version=1,
    source="Guo et al., 2018, arXiv:1810.09619",
    bibtex=BIBTEX,
    figures={
        "weights": "number of weights, biases and normalisation left out",
        "zeros": "share of the weights that are exactly zero",
        "small": "share of the weights below a hundredth of the largest of their layer",
        "gini": "Gini coefficient of the absolute weights of a layer, averaged over layers by their weights",
        "hoyer": "Hoyer's measure of the weights of a layer, averaged likewise",
    },
    invariant=dict.fromkeys(("weights", "zeros", "small", "gini", "hoyer"), ("scale", "shift")),
    access="weights",
    norms=("linf", "l2", "l1", "l0"),
)
def weight_sparsity(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, *, draws: Draws) -> Findings:
    """Measure how sparse the weight matrices and kernels of a network are.

    Every measure is taken layer by layer, so that it does not change when one layer is scaled up and the next one down,
    which leaves a ReLU network the same. The source finds robustness to rise and then to fall with sparsity.

    Args:
        model: the classifier.
        x: (B, *S); not used.
        y: int64 (B,); not used.
        threat: not used.
        draws: unused; nothing is random.

    Returns:
        Five figures; no row is sent.

    Raises:
        InvalidValue: for a network without weights.

    Source: Guo, Zhang, Zhang & Chen 2018, arXiv:1810.09619, for zeros; Hurley & Rickard 2009, arXiv:0811.4706, and Hoyer
        2004, JMLR 5, for the measures of what is not zero.
    """
    layers = [w.detach() for w in model.module.parameters() if w.dim() >= 2 and w.numel() > 1 and bool((w != 0).any())]
    if not layers:
        raise InvalidValue(
            "a network without weights was given",
            "one with matrices or kernels that are not all zero is allowed",
            "Leave this probe out.",
        )
    total = sum(w.numel() for w in layers)

    def averaged(measure: list[float]) -> float:
        return sum(value * w.numel() for value, w in zip(measure, layers, strict=True)) / total

    rows = [w.reshape(1, -1).double() for w in layers]
    return Findings(
        figures={
            "weights": float(total),
            "zeros": averaged([float((row == 0).double().mean()) for row in rows]),
            "small": averaged([float((row.abs() < 0.01 * row.abs().amax()).double().mean()) for row in rows]),
            "gini": averaged([float(gini(row)) for row in rows]),
            "hoyer": averaged([float(hoyer(row)) for row in rows]),
        }
    )
