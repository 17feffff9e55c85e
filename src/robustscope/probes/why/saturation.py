"""What is left when greys go: accuracy on pictures whose values are pushed to black and white."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.transforms import saturate
from robustscope.models.classifier import Classifier
from robustscope.probes.why._sweeps import check_grid, correct, kept
from robustscope.probes.why.cards import Findings, register

ZHANG = """@inproceedings{zhang2019interpreting,
  title = {Interpreting Adversarially Trained Convolutional Neural Networks},
  author = {Zhang, Tianyuan and Zhu, Zhanxing},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""


@register(
    "saturation",
    version=1,
    source="Zhang and Zhu, 2019, arXiv:1905.09797, Sec. 3.2; the formula of Ding et al., 2019, arXiv:1902.08336",
    bibtex=ZHANG,
    columns={"saturated_kept": "share of the levels at which a correctly classified sample stays so"},
    robust={"saturated_kept": "higher"},
    gaps={"saturated_kept": "the sample is misclassified as it is"},
    invariant={"saturated_kept": ("scale", "shift")},
    access="decisions",
    quick={"levels": (4.0, math.inf)},
)
def saturation(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    levels: Sequence[float] = (1.0, 4.0, 8.0, 16.0, 64.0, 1024.0),
) -> Findings:
    """Classify the inputs at several levels of saturation, which destroy texture and keep outlines.

    Only samples that are classified correctly as they are can keep it, so that a model is not blamed for its clean errors.

    Args:
        model: any classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: unused; the bounds are the model's.
        draws: unused; it is deterministic.
        levels: of :func:`robustscope.data.transforms.saturate`, each > 0; 2 changes nothing, 1 greys, more pushes outwards.

    Returns:
        The column ``saturated_kept``, and the curve ``saturated`` (B, L) of what is classified correctly at each level.

    Raises:
        InvalidValue: for levels that are not above 0, or none.

    Source: Zhang and Zhu, 2019, arXiv:1905.09797, Sec. 3.2 and Table 2.
    """
    given = check_grid("levels", levels, 0, beyond=True)
    right = correct(model, y, (saturate(x, level, model.bounds) for level in given))
    clean = model.decisions(x) == y
    return Findings({"saturated_kept": kept(right, clean)}, {}, {"saturated": right}, {"saturated": (np.array(given),)})
