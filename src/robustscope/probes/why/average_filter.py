"""What is left when details go, and how a shift of the data changes the adversary's room: smoothing by averages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.transforms import check_images, log_volume, smooth
from robustscope.geometry.pairwise import PairNorm, check_pair_norm, nearest
from robustscope.models.classifier import Classifier
from robustscope.probes.why._sweeps import check_sides, correct, kept
from robustscope.probes.why.cards import Findings, register

DING = """@inproceedings{ding2019sensitivity,
  title = {On the Sensitivity of Adversarial Robustness to Input Data Distributions},
  author = {Ding, Gavin Weiguang and Lui, Kry Yik Chau and Jin, Xiaomeng and Wang, Luyu and Huang, Ruitong},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""


@register(
    "average_filter",
    version=1,
    source="Ding et al., 2019, arXiv:1902.08336, Sec. 4 (average filters)",
    bibtex=DING,
    columns={"smoothed_kept": "share of the kernels under which a correctly classified sample stays so"},
    gaps={"smoothed_kept": "the sample is misclassified as it is"},
    invariant={"smoothed_kept": ("scale", "shift")},
    access="decisions",
    inputs="images",
    quick={"kernels": (2, 3)},
)
def average_filter(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    kernels: Sequence[int] = (2, 3, 4, 5),
) -> Findings:
    """Classify pictures smoothed by average filters of several sizes.

    Args:
        model: any classifier of pictures.
        x: (B, C, H, W).
        y: int64 (B,), true classes.
        threat: unused.
        draws: unused; it is deterministic.
        kernels: sides of the averaged squares, in pixels, >= 1.

    Returns:
        The column ``smoothed_kept``, and the curve ``smoothed`` (B, L) of what is classified correctly under each kernel.

    Raises:
        InvalidValue: for kernels below 1, or none.

    Source: Ding et al., 2019, arXiv:1902.08336, Sec. 4.

    Departures: the source trains anew on each shift of the data; here one model is asked, and what is measured is what it
        looks at. For the source's own protocol, transform the training data and describe the shift by :func:`room`.
    """
    check_images(x)
    sides = check_sides("kernels", kernels)
    right = correct(model, y, (smooth(x, kernel) for kernel in sides))
    clean = model.decisions(x) == y
    return Findings({"smoothed_kept": kept(right, clean)}, {}, {"smoothed": right}, {"smoothed": (np.array(sides),)})


def room(x: Tensor, y: Tensor, threat: ThreatModel, norm: PairNorm = "l2") -> dict[str, float]:
    """Return what Ding et al. suspect behind the effect of a shift of the data on robustness, for a data set.

    Args:
        x: (n, *S), samples of one shift, inside the bounds.
        y: int64 (n,), their classes; two or more.
        threat: linf, epsilon > 0.
        norm: of the distances between classes.

    Returns:
        ``log_volume``, the mean of :func:`robustscope.data.transforms.log_volume`: the room of the adversary; and
        ``interclass_distance``, the mean distance of a sample to the nearest one of another class.

    Raises:
        InvalidValue: for another threat or norm.

    Source: Ding et al., 2019, arXiv:1902.08336, Sec. 5.
    """
    distance, _ = nearest(check_pair_norm(norm), x, y, x, y)
    found = {"log_volume": log_volume(x, threat), "interclass_distance": distance[torch.isfinite(distance)]}
    return {name: float(values.mean()) for name, values in found.items()}
