"""Loss gradients: how long they are in each norm, and the damage that a small step along them foretells and does."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry import balls
from robustscope.geometry.losses import cross_entropy
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register

BIBTEX = """@inproceedings{simongabriel2019first,
  title = {First-Order Adversarial Vulnerability of Neural Networks and Input Dimension},
  author = {Simon-Gabriel, Carl-Johann and Ollivier, Yann and Bottou, L{\\'e}on and Sch{\\"o}lkopf, Bernhard
            and Lopez-Paz, David},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""


@register(
    "gradient_norm",
    version=1,
    source="Simon-Gabriel et al., 2019, arXiv:1802.01421, Sec. 2",
    bibtex=BIBTEX,
    columns={
        "loss": "cross-entropy of the true class, in nats",
        "l1": "l1 length of its gradient: nats for each unit of an linf perturbation",
        "l2": "l2 length of its gradient",
        "linf": "largest absolute value of its gradient",
        "damage": "epsilon times the dual length: by how much the loss rises to first order, in nats",
        "step_damage": "by how much it does rise at the point of the threat set that the gradient names, in nats",
    },
    robust={"l1": "lower", "l2": "lower", "damage": "lower", "step_damage": "lower"},
    invariant=dict.fromkeys(("loss", "l1", "l2", "linf", "damage", "step_damage"), ("shift",)),
)
def gradient_norm(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, *, draws: Draws) -> Findings:
    """Measure the loss gradient of each sample in three norms, and the first-order damage.

    A perturbation of length epsilon raises the loss by at most epsilon times the dual length of the gradient, to first
    order. At random initialisation the l1 length grows with the square root of the number of input values.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: norm and radius of the damage.
        draws: unused; nothing is random.

    Returns:
        Lengths and damages; two forward rows and one backward row for each sample.

    Raises:
        ModelError: if the outputs or the gradient cannot be used.

    Source: Simon-Gabriel, Ollivier, Bottou, Schoelkopf & Lopez-Paz 2019, arXiv:1802.01421, Sec. 2.

    Departures: gradients are those of each sample's own loss, not of a mean over the batch. ``step_damage`` keeps to the
    input bounds, ``damage`` does not know them.
    """
    loss, gradient, _ = model.gradient(lambda z, rows: cross_entropy(z, y[rows]), x)
    moved = cross_entropy(model.logits(balls.furthest(threat, x, gradient)), y)
    found = {
        "loss": loss,
        "l1": balls.dual_length("linf", gradient),
        "l2": balls.dual_length("l2", gradient),
        "linf": balls.dual_length("l1", gradient),
        "damage": threat.radius(x) * balls.dual_length(threat.norm, gradient),
        "step_damage": moved - loss,
    }
    return Findings({name: column.to(x.dtype) for name, column in found.items()})
