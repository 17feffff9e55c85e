"""Adversarial training on the foreground alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.training.adversary import ascend, random_point
from robustscope.training.cards import Passes, Step, Term, register
from robustscope.training.foregrounds import mask_of, open_masks
from robustscope.training.network import Mode, Network

BIBTEX = """@article{vaishnavi2019can,
  title = {Can Attention Masks Improve Adversarial Robustness?},
  author = {Vaishnavi, Pratik and Cong, Tianji and Eykholt, Kevin and Prakash, Atul and Rahmati, Amir},
  journal = {arXiv preprint arXiv:1911.11946},
  year = {2019}
}"""


@register(
    "masked",
    version=1,
    source="Vaishnavi et al., 2019, arXiv:1911.11946, Sec. 3",
    bibtex=BIBTEX,
    norms=("linf", "l2", "l1"),
    passes=lambda p: Passes(p["steps"] + 1, p["steps"] + 1),
    quick={"steps": 3},
    prepare=lambda samples, p: open_masks(p["mask"], p["level"], samples.data),
)
def masked(
    network: Network,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    step: Step,
    steps: int = 10,
    relative_step_size: float = 0.25,
    mask: str = "brighter",
    level: float = 0.3,
    mode: Mode = "eval",
) -> Iterator[Term]:
    """Train on mask * x_adv: PGD moves the picture, then the background is set to 0, before the network sees it.

    So the background has no gradient, and what remains for an attack is the foreground. The mask is that of the clean
    picture; nobody attacks it. A gain may come from the smaller set of values alone: compare with random masks of the
    same area, hand them in as ``given``.

    Accuracies that the loop measures on held-out samples are those of pictures *without* masks: choose
    ``best_by = "last"``, and measure the network behind masks by ``robustscope.runs.masks.evaluate_masks``.

    Args:
        network: the network in training.
        x: (B, *S), clean inputs.
        y: int64 (B,), true classes.
        threat: norm, radius, bounds.
        draws: random numbers of these samples in this epoch; their ids find stored masks.
        step: holds the masks: what ``mask`` names, or a tensor or function handed to ``train(..., given=...)``.
        steps: of PGD, >= 0; 0 trains on clean masked pictures.
        relative_step_size: as a fraction of epsilon.
        mask: "brighter" for what is brighter than ``level``, or masks of the data set as ``load_masks`` opens them, such
            as "npy:FILE" or "coco:FILE".
        level: of "brighter".
        mode: mode of the network while it is attacked.

    Raises:
        InvalidType, InvalidValue: for masks that do not fit the pictures.

    Source: Vaishnavi et al. 2019, arXiv:1911.11946, Sec. 3.

    Departures: stored masks do not follow augmentation; masks that are functions of the picture do.
    """
    seen = mask_of(step.given, x, draws.ids)
    losses = partial(cross_entropy, y=y)
    start = x if steps == 0 else x + seen * (random_point(x, threat, draws, "start") - x)
    x_adv = ascend(
        network, x, threat, losses, start, steps=steps, relative_step_size=relative_step_size, mode=mode, mask=seen
    )
    yield Term(losses(network.logits(seen * x_adv)))
