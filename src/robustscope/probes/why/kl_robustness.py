"""The reciprocal of the largest divergence of the predicted probabilities inside the threat set."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.walks import ascend, check_walk

BIBTEX = """@inproceedings{yu2019interpreting,
  title = {Interpreting and Evaluating Neural Network Robustness},
  author = {Yu, Fuxun and Qin, Zhuwei and Liu, Chenchen and Zhao, Liang and Wang, Yanzhi and Chen, Xiang},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year = {2019},
  doi = {10.24963/ijcai.2019/583}
}"""
COLUMNS = {
    "kl": "largest Kullback-Leibler divergence from the probabilities at the sample that was found, in nats",
    "psi": "1 / kl",
    "log_psi": "natural logarithm of psi; a mean over samples that the surest do not decide",
}


@register(
    "kl_robustness",
    version=1,
    source="Yu et al., 2019, arXiv:1905.04270",
    bibtex=BIBTEX,
    columns=COLUMNS,
    robust={"kl": "lower", "psi": "higher", "log_psi": "higher"},
    invariant=dict.fromkeys(COLUMNS, ("shift",)),
    quick={"steps": 4},
    brief={"steps": 6, "relative_step_size": 0.4, "restarts": 1},
)
def kl_robustness(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    steps: int = 10,
    relative_step_size: float = 0.25,
    restarts: int = 2,
) -> Findings:
    """Ascend the divergence of the predicted probabilities inside the threat set; psi is one over what was found.

    Needs no label. It is not free of the scale of the logits: a network whose logits are halved has a larger psi and the
    same decisions. The ascent begins at random points, since at the sample itself the divergence has no gradient.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,); not used.
        threat: where to look.
        draws: random numbers of these samples.
        steps: gradients of each restart, >= 1.
        relative_step_size: step size as a fraction of epsilon, > 0.
        restarts: random starts, >= 1; more of them contain fewer.

    Returns:
        Three columns; ``restarts`` * (``steps`` + 1) + 1 forward and ``restarts`` * ``steps`` backward rows a sample.

    Raises:
        InvalidValue: for fewer than one step or restart.
        ModelError: if the outputs or a gradient cannot be used.

    Source: Yu, Qin, Liu, Zhao, Wang & Chen 2019, arXiv:1905.04270.

    Departures: divergences below the rounding of the inputs' dtype count as that rounding, so that psi is finite.
    """
    check_walk(steps, relative_step_size, restarts)
    before = model.logits(x).log_softmax(1)

    def divergence(z: Tensor, rows: Tensor) -> Tensor:
        return (before[rows].exp() * (before[rows] - z.log_softmax(1))).sum(1)

    best, _ = ascend(
        model,
        x,
        threat,
        divergence,
        draws=draws,
        steps=steps,
        relative_step_size=relative_step_size,
        restarts=restarts,
    )
    kl = best.to(x.dtype).clamp(min=torch.finfo(x.dtype).eps)
    return Findings({"kl": kl, "psi": 1 / kl, "log_psi": -kl.log()})
