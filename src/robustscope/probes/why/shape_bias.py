"""Shape or texture? Decisions on pictures whose two cues say different classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.data.cue_conflict import SIXTEEN, pool_probabilities
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register

GEIRHOS = """@inproceedings{geirhos2019imagenet,
  title = {ImageNet-trained {CNN}s are biased towards texture; increasing shape bias improves accuracy and robustness},
  author = {Geirhos, Robert and Rubisch, Patricia and Michaelis, Claudio and Bethge, Matthias and Wichmann, Felix A. and
            Brendel, Wieland},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""


@register(
    "shape_bias",
    version=1,
    source="Geirhos et al., 2019, arXiv:1811.12231, Sec. 2",
    bibtex=GEIRHOS,
    columns={
        "shape_bias": "1 if the decision is the class of the shape, 0 if that of the texture; its mean over "
        "samples is the shape bias",
        "cue_decided": "1 if the decision is one of the two cues, 0 if neither",
    },
    robust={"shape_bias": "higher"},
    gaps={
        "shape_bias": "the decision is neither cue, or both cues are one class",
        "cue_decided": "both cues are one class",
    },
    invariant=dict.fromkeys(("shape_bias", "cue_decided"), ("scale", "shift")),
    access="decisions",
    inputs="cue conflict",
)
def shape_bias(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    groups: Sequence[Sequence[int]] | str | None = None,
) -> Findings:
    """Ask which of two cues decides.

    Args:
        model: any classifier; one that returns scores where ``groups`` are given.
        x: (B, *S), pictures whose cues conflict.
        y: int64 (B,), classes of the shapes.
        threat: unused.
        draws: unused; it is deterministic.
        targets: int64 (B,), classes of the textures.
        groups: None if the outputs of the model are the classes of ``y``; else the outputs that belong to each class, whose
            probabilities are averaged. "imagenet-16" are the outputs of a model of ImageNet's 1,000 classes for the 16
            categories of the published stimuli, in alphabetical order.

    Returns:
        The columns ``shape_bias`` and ``cue_decided``. The mean of the first over the samples where it is a number is
        the shape bias, N_shape / (N_shape + N_texture); :func:`robustscope.analyses.cue_conflict.cue_conflict` counts by
        class, with intervals.

    Raises:
        InvalidValue: without textures, and for groups that do not fit the model.

    Source: Geirhos et al., 2019, arXiv:1811.12231, Sec. 2.
    """
    if targets is None or targets.shape != y.shape:
        raise InvalidValue(
            f"textures of shape {None if targets is None else tuple(targets.shape)} were given for {len(y)} samples",
            "targets=, the class of the texture of each sample, is needed",
            "Read them beside the shapes, e.g. cue-digits:conflict,texture or cue-conflict:FOLDER#texture.",
        )
    chosen = decide(model, x, groups)
    conflict = y != targets
    shape, texture = chosen == y, chosen == targets
    number = shape.to(x.dtype)
    return Findings(
        {
            "shape_bias": torch.where(conflict & (shape | texture), number, torch.nan),
            "cue_decided": torch.where(conflict, (shape | texture).to(x.dtype), torch.nan),
        }
    )


def decide(model: Classifier, x: Tensor, groups: Sequence[Sequence[int]] | str | None = None) -> Tensor:
    """Return the decision of a model among the classes of the cues: int64 (B,).

    Args:
        model, x, groups: as :func:`shape_bias`.

    Raises:
        InvalidValue: for groups that do not fit the model, or another name.
    """
    if groups is None:
        return model.decisions(x)
    if isinstance(groups, str):
        if groups != "imagenet-16":
            raise InvalidValue(
                f"groups={groups!r} was given", "'imagenet-16' or lists are allowed", "Correct the name."
            )
        groups = list(SIXTEEN.values())
    return pool_probabilities(model.logits(x), groups).argmax(1)
