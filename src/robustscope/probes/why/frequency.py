"""Which frequencies decide: accuracy on what changes slowly in a picture, and on what changes fast."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.transforms import check_images, split_frequencies
from robustscope.models.classifier import Classifier
from robustscope.probes.why._sweeps import check_grid, correct, kept
from robustscope.probes.why.cards import Findings, register

WANG = """@inproceedings{wang2020high,
  title = {High-Frequency Component Helps Explain the Generalization of Convolutional Neural Networks},
  author = {Wang, Haohan and Wu, Xindi and Huang, Zeyi and Xing, Eric P.},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2020}
}"""


@register(
    "frequency",
    version=1,
    source="Wang et al., 2020, arXiv:1905.13545, Sec. 3 and 6",
    bibtex=WANG,
    columns={
        "low_kept": "share of the radii at which a correctly classified sample stays so on its low frequencies alone",
        "high_kept": "the same on its high frequencies alone",
        "high_only": "share of the radii at which the high frequencies are classified correctly and the low ones are not",
    },
    robust={"high_kept": "lower"},
    gaps=dict.fromkeys(("low_kept", "high_kept", "high_only"), "the sample is misclassified as it is"),
    invariant=dict.fromkeys(("low_kept", "high_kept", "high_only"), ("scale", "shift")),
    access="decisions",
    inputs="images",
    quick={"radii": (1.0, 2.0)},
)
def frequency(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    radii: Sequence[float] | None = None,
) -> Findings:
    """Split pictures at several radii of their spectrum, and classify the low and the high part by themselves.

    The parts leave the bounds, the high one has mean 0; neither is clipped nor shifted.

    Args:
        model: any classifier of pictures.
        x: (B, C, H, W).
        y: int64 (B,), true classes.
        threat: unused.
        draws: unused; it is deterministic.
        radii: periods over the picture at which to split, >= 0; None takes eight steps up to just above the highest
            frequency, where the low part is the picture itself.

    Returns:
        The columns ``low_kept``, ``high_kept`` and ``high_only``; the curves ``low`` and ``high`` (B, L) of what is
        classified correctly at each radius.

    Raises:
        InvalidValue: for negative radii, or none.

    Source: Wang et al., 2020, arXiv:1905.13545: samples right on ``x`` and its high part and wrong on its low part are
        those of Fig. 1.
    """
    check_images(x)
    if radii is None:
        highest = math.hypot(x.shape[-2] // 2, x.shape[-1] // 2)
        radii = tuple(round(highest * step / 8 + 0.001, 3) for step in range(1, 9))  # the last holds all
    given = check_grid("radii", radii, 0)
    parts = [correct(model, y, split_frequencies(x, radius)) for radius in given]
    low, high = torch.stack(parts, 2).unbind(1)
    clean = model.decisions(x) == y
    columns = {"low_kept": kept(low, clean), "high_kept": kept(high, clean), "high_only": kept(high * (1 - low), clean)}
    return Findings(columns, {}, {"low": low, "high": high}, dict.fromkeys(("low", "high"), (np.array(given),)))
