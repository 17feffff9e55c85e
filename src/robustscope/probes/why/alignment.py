"""Alignment of the saliency map with the image, and the robustness of the linearised network."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.balls import dual_length
from robustscope.models.classifier import Classifier
from robustscope.models.derivatives import reduced_jacobian
from robustscope.probes.why.cards import Findings, register

BIBTEX = """@inproceedings{etmann2019connection,
  title = {On the Connection Between Adversarial Robustness and Saliency Map Interpretability},
  author = {Etmann, Christian and Lunz, Sebastian and Maass, Peter and Sch{\\"o}nlieb, Carola-Bibiane},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}"""
COLUMNS = {
    "alignment": "|<x, g>| / |g| with g, the gradient of the predicted logit: l2, in the units of the inputs",
    "linearised_robustness": "least of (logit lead) / (l2 length of its gradient) over the other classes",
    "pair_alignment": "|<x, g>| / |g| with g, the gradient of the lead over the class of that minimum",
    "pair_offset": "|lead - <x, g>| / |g| with the same g; the minimum is at most pair_alignment plus this",
}


@register(
    "alignment",
    version=1,
    source="Etmann et al., 2019, arXiv:1905.04172",
    bibtex=BIBTEX,
    columns=COLUMNS,
    robust={"alignment": "higher", "linearised_robustness": "higher"},
    gaps={
        "alignment": "the gradient of the predicted logit is zero",
        **dict.fromkeys(list(COLUMNS)[1:], "the gradients of all leads are zero"),
    },
    invariant=dict.fromkeys(COLUMNS, ("scale", "shift")),
)
def alignment(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    rivals: int = 9,
    centre: float = 0.0,
) -> Findings:
    """Measure how well the gradient of the predicted logit points along the image itself, and the linearised robustness.

    For a network without biases whose activations are piecewise linear the lead is <x, g>, so both are one number; biases
    set them apart. The alignment depends on where the origin of the inputs lies, which ``centre`` says.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,); not used, the predicted class is explained.
        threat: not used; lengths are l2.
        draws: unused; nothing is random.
        rivals: other classes that are looked at, those with the largest logits, >= 1; each costs one backward row.
        centre: value of an input that counts as zero, for instance 0.5 for images in [0, 1] seen around grey.

    Returns:
        Four columns; four forward rows and ``rivals`` + 2 backward rows for each sample.

    Raises:
        InvalidValue: for fewer than one rival.
        ModelError: if the outputs or a gradient cannot be used.

    Source: Etmann, Lunz, Maass & Schoenlieb 2019, arXiv:1905.04172.
    """
    if rivals < 1:
        raise InvalidValue(f"rivals={rivals} was given", "an integer >= 1 is allowed", "Leave it out for 9.")
    if not len(x):
        return Findings(dict.fromkeys(COLUMNS, x.new_empty(0)))
    logits = model.logits(x)
    top = logits.argmax(1)
    others = logits.scatter(1, top[:, None], -torch.inf).topk(min(rivals, logits.shape[1] - 1), dim=1).indices

    def leads(z: Tensor, rows: Tensor) -> Tensor:
        return z.gather(1, top[rows, None]) - z.gather(1, others[rows])

    slopes = reduced_jacobian(model, leads, x, lambda gradient: dual_length("l2", gradient))
    every = torch.arange(len(x), device=x.device)
    ratio = torch.where(slopes > 0, leads(logits, every) / slopes, torch.inf)
    nearest = ratio.argmin(1)
    lead, gradient, _ = model.gradient(lambda z, rows: leads(z, rows)[every[: len(rows)], nearest[rows]], x)
    slope, along = _along(x - centre, gradient)
    steepness, upward = _along(x - centre, model.gradient(lambda z, rows: z[every[: len(rows)], top[rows]], x)[1])
    least = ratio.gather(1, nearest[:, None])[:, 0]
    found = {
        "alignment": _over(upward.abs(), steepness),
        "linearised_robustness": torch.where(torch.isinf(least), torch.nan, least),
        "pair_alignment": _over(along.abs(), slope),
        "pair_offset": _over((lead - along).abs(), slope),
    }
    return Findings({name: column.to(x.dtype) for name, column in found.items()})


def _along(x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the l2 length of each gradient and its product with ``x``: two (B,)."""
    return dual_length("l2", gradient), (x * gradient).flatten(1).sum(1)


def _over(value: Tensor, length: Tensor) -> Tensor:
    return torch.where(length > 0, value / length, torch.nan)
