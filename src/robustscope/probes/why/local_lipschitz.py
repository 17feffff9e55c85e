"""Local Lipschitz: the steepest change of the outputs that an ascent finds inside the threat set."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.sparsity import spread_of
from robustscope.probes.why.walks import ascend, check_walk

BIBTEX = """@inproceedings{yang2020closer,
  title = {A Closer Look at Accuracy vs. Robustness},
  author = {Yang, Yao-Yuan and Rashtchian, Cyrus and Zhang, Hongyang and Salakhutdinov, Ruslan and
            Chaudhuri, Kamalika},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}"""


@register(
    "local_lipschitz",
    version=1,
    source="Yang et al., 2020, arXiv:2003.02460",
    bibtex=BIBTEX,
    columns={
        "local_lipschitz": "largest |f(x) - f(x')|_1 / |x - x'| found, for each unit of the norm of the threat model",
        "relative_lipschitz": "the same over the standard deviation of the sample's outputs",
    },
    robust={"local_lipschitz": "lower", "relative_lipschitz": "lower"},
    gaps={"local_lipschitz": "the radius is 0", "relative_lipschitz": "the radius is 0, or all outputs are equal"},
    invariant={"local_lipschitz": ("shift",), "relative_lipschitz": ("shift",)},
    quick={"steps": 4},
    brief={"steps": 6, "relative_step_size": 0.35},
)
def local_lipschitz(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    outputs: Literal["logits", "probabilities"] = "logits",
    steps: int = 10,
    relative_step_size: float = 0.2,
    restarts: int = 1,
) -> Findings:
    """Ascend the l1 distance of the outputs inside the threat set; keep the largest quotient with the distance moved.

    What is found is a lower bound of the local Lipschitz constant. Logits have a scale of their own, so that networks are
    compared by the relative one, or on probabilities.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,); not used.
        threat: where to look, and the norm of distances.
        draws: random numbers of these samples.
        outputs: "logits", or "probabilities" behind the softmax.
        steps: gradients of each restart, >= 1.
        relative_step_size: step size as a fraction of epsilon; so the whole set is explored whatever its size.
        restarts: random starts, >= 1; more of them contain fewer.

    Returns:
        Two columns; ``restarts`` * (``steps`` + 1) + 1 forward and ``restarts`` * ``steps`` backward rows for each sample.

    Raises:
        InvalidValue: for fewer than one step or restart.
        ModelError: if the outputs or a gradient cannot be used.

    Source: Yang, Rashtchian, Zhang, Salakhutdinov & Chaudhuri 2020, arXiv:2003.02460.

    Departures: the step is a fraction of epsilon, where the program published has a fixed one that does not reach the end
    of larger sets; the distance of outputs is ascended, and the best quotient along the way kept.
    """
    check_walk(steps, relative_step_size, restarts)
    before = _outputs(model.logits(x), outputs)

    def change(z: Tensor, rows: Tensor) -> Tensor:
        return (_outputs(z, outputs) - before[rows]).abs().sum(1)

    def quotient(point: Tensor, value: Tensor) -> Tensor:
        moved = balls.length(threat.norm, point - x).to(value.dtype)
        return torch.where(moved > 0, value / moved, -torch.inf)

    best, _ = ascend(
        model,
        x,
        threat,
        change,
        draws=draws,
        steps=steps,
        relative_step_size=relative_step_size,
        restarts=restarts,
        worth=quotient,
    )
    best = torch.where(torch.isinf(best), torch.nan, best).to(x.dtype)
    spread = spread_of(before).to(x.dtype)
    return Findings({"local_lipschitz": best, "relative_lipschitz": torch.where(spread > 0, best / spread, torch.nan)})


def _outputs(logits: Tensor, outputs: str) -> Tensor:
    return logits.softmax(1) if outputs == "probabilities" else logits
