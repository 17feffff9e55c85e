"""Margins: by how much the true class leads, in logits, in probabilities, free of their scale, and in the input."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry.balls import dual_length
from robustscope.geometry.losses import margin, probability_margin
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.sparsity import spread_of

BIBTEX = """@inproceedings{elsayed2018large,
  title = {Large Margin Deep Networks for Classification},
  author = {Elsayed, Gamaleldin and Krishnan, Dilip and Mobahi, Hossein and Regan, Kevin and Bengio, Samy},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018}
}"""
COLUMNS = {
    "logit_margin": "true logit minus the largest other; its scale is the network's own",
    "probability_margin": "true probability minus the largest other, in [-1, 1]",
    "scaled_margin": "margin over the standard deviation of the sample's logits",
    "input_margin": "margin over the dual length of its gradient: the first-order distance to the boundary, in the"
    " units and norm of the threat model, below 0 for errors",
}


@register(
    "margins",
    version=1,
    source="Elsayed et al., 2018, arXiv:1803.05598 (input margin)",
    bibtex=BIBTEX,
    columns=COLUMNS,
    robust={"input_margin": "higher"},
    gaps={"scaled_margin": "all logits are equal", "input_margin": "the gradient of the margin is zero"},
    invariant={
        "logit_margin": ("shift",),
        "probability_margin": ("shift",),
        "scaled_margin": ("scale", "shift"),
        "input_margin": ("scale", "shift"),
    },
)
def margins(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, *, draws: Draws) -> Findings:
    """Measure four margins of each sample.

    A network whose logits are multiplied by ten has ten times the logit margins and is no more robust: compare networks by
    the scaled or the input margin. With two classes the scaled margin is 2 or -2.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: its norm is that of the input margin; its radius is not used.
        draws: unused; nothing is random.

    Returns:
        One forward and one backward row for each sample.

    Raises:
        ModelError: if the outputs or the gradient cannot be used.

    Source: Elsayed, Krishnan, Mobahi, Regan & Bengio 2018, arXiv:1803.05598, for the input margin.
    """
    if not len(x):
        return Findings(dict.fromkeys(COLUMNS, x.new_empty(0)))
    lead, gradient, logits = model.gradient(lambda z, rows: margin(z, y[rows]), x)
    logits = logits.to(x.dtype)
    slope, spread = dual_length(threat.norm, gradient), spread_of(logits)
    return Findings(
        {
            "logit_margin": lead.to(x.dtype),
            "probability_margin": -probability_margin(logits, y),
            "scaled_margin": torch.where(spread > 0, lead / spread, torch.nan),
            "input_margin": torch.where(slope > 0, lead / slope, torch.nan),
        }
    )
