"""DDN: the decoupled direction and norm attack."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.pgd import check_positive
from robustscope.attacks.search import Search, along, annealed
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import planes
from robustscope.geometry.losses import LossName, objective
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{rony2019decoupling,
  title = {Decoupling Direction and Norm for Efficient Gradient-Based {L2} Adversarial Attacks and Defenses},
  author = {Rony, J{\\'e}r{\\^o}me and Hafemann, Luiz G. and Oliveira, Luiz S. and Ben Ayed, Ismail
            and Sabourin, Robert and Granger, Eric},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}"""


CLOSE = 0.02
"""Share of ``norm_change`` by which an iterate may miss its length: what it misses the next one makes up for."""


@register(
    "ddn",
    version=3,
    source="Rony et al., 2019, arXiv:1811.09600, Algorithm 1",
    bibtex=BIBTEX,
    aim="minimum-norm",
    norms=("l2",),
    goals=("untargeted", "targeted"),
    cost=lambda p: (p["steps"] + 1, p["steps"]),
)
def ddn(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    steps: int = 100,
    initial_norm: float = 1.0,
    norm_change: float = 0.05,
    step_size: float = 1.0,
    final_step_size: float = 0.01,
    loss: LossName = "cross_entropy",
    stop_at_epsilon: bool = False,
) -> AttackResult:
    """Walk along normalised gradients, and set the length of the perturbation apart from its direction.

    delta moves by a_k along the normalised gradient, then is brought to the length n_k, which shrinks by
    ``norm_change`` after an adversarial iterate and grows by it after any other; a_k falls by half a cosine.

    Args:
        model: classifier under attack.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: l2, bounds, and the radius that a returned example may have; ``inf`` for the smallest found.
        draws: unused; the attack is deterministic.
        targets: int64 (B,), classes to reach; None attacks untargeted.
        steps: number of steps, >= 1.
        initial_norm: first length n_0, > 0, in units of the width of the bounds.
        norm_change: share by which the length grows or shrinks, between 0 and 1.
        step_size: first step a_0, > 0, in units of the width of the bounds.
        final_step_size: step at the end, > 0, in the same units.
        loss: "cross_entropy", "margin", "probability_margin" or "dlr".
        stop_at_epsilon: end the search of a sample with its first example within the radius.

    Returns:
        The nearest adversarial iterate of each sample, projected on the threat set where it lies outside; ``x`` itself
        where none was found.

    Raises:
        InvalidValue: for hyper-parameters out of range, or a loss that needs more classes.

    Source: Rony et al. 2019, arXiv:1811.09600, Algorithm 1.

    Departures: delta is brought to its length inside the bounds, to within a fiftieth of ``norm_change`` (the longest
        clip(s delta) that fits), where the paper scales and then clips, which loses length at saturated values; the iterates are not rounded to 8 bits; where a
        gradient is zero delta stays, while the authors draw a random direction.
    """
    check_positive(steps=steps, initial_norm=initial_norm, step_size=step_size, final_step_size=final_step_size)
    if not 0 < norm_change < 1:
        raise InvalidValue(
            f"norm_change={norm_change} was given", "a number between 0 and 1 is allowed", "The paper uses 0.05."
        )
    goal = objective(loss, model.classes(x), targets is not None)
    search = Search(model, x, y, threat, targets, stop_at_epsilon, precise=False)
    width = threat.bounds.upper - threat.bounds.lower
    rows = search.rows()
    centre, current, way, far = x, x, torch.zeros_like(x), x.new_zeros(len(x))
    longest = planes.furthest_corner("l2", threat.bounds, x)
    length, gain = longest.clamp(max=initial_norm * width), torch.ones_like(longest)
    for step in range(steps):
        if not len(rows):
            return search.result()
        _, gradients, solved = search.gradient(rows, current, goal, (way, far))
        keep = search.unfinished(rows)
        if not keep.all():
            rows, centre, way, gradients = rows[keep], centre[keep], way[keep], gradients[keep]
            solved, length, longest, gain = solved[keep], length[keep], longest[keep], gain[keep]
        size = width * annealed(step_size, final_step_size, step, steps)
        if step:
            length = torch.where(solved, length * (1 - norm_change), length * (1 + norm_change)).minimum(longest)
        moved = along(way, gradients, size, out=way)
        current, way, far, gain = planes.reach(threat.bounds, centre, moved, length, gain, CLOSE * norm_change)
    if len(rows):
        search.logits(rows, current)
    return search.result()
