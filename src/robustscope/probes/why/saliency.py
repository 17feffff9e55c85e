"""Saliency maps: plain gradients, SmoothGrad and integrated gradients, and how concentrated they are."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy, margin
from robustscope.models.classifier import Classifier, Scores
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.sparsity import gini, top_share

BIBTEX = """@inproceedings{zhang2019interpreting,
  title = {Interpreting Adversarially Trained Convolutional Neural Networks},
  author = {Zhang, Tianyuan and Zhu, Zhanxing},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}

@article{smilkov2017smoothgrad,
  title = {SmoothGrad: removing noise by adding noise},
  author = {Smilkov, Daniel and Thorat, Nikhil and Kim, Been and Vi{\\'e}gas, Fernanda and Wattenberg, Martin},
  journal = {arXiv preprint arXiv:1706.03825},
  year = {2017}
}

@inproceedings{sundararajan2017axiomatic,
  title = {Axiomatic Attribution for Deep Networks},
  author = {Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi},
  booktitle = {International Conference on Machine Learning},
  year = {2017}
}"""
Target = Literal["logit", "lead", "loss"]
MAPS = ("gradient", "smoothgrad", "integrated")
COLUMNS = {
    **{f"{name}_gini": f"Gini coefficient of the {name} map: 0 even, towards 1 concentrated" for name in MAPS},
    **{f"{name}_energy": f"part of the squares of the {name} map that its largest values hold" for name in MAPS},
    "shortfall": "by how much the integrated map misses the score that it explains, as a part of its l1 length",
}


@register(
    "saliency",
    version=1,
    source="Zhang & Zhu, 2019, arXiv:1905.09797; Smilkov et al., 2017, arXiv:1706.03825; "
    "Sundararajan et al., 2017, arXiv:1703.01365",
    bibtex=BIBTEX,
    columns=COLUMNS,
    robust={"gradient_gini": "higher", "smoothgrad_gini": "higher"},
    gaps=dict.fromkeys(COLUMNS, "the map is zero everywhere"),
    invariant=dict.fromkeys(COLUMNS, ("scale", "shift")),
    quick={"noises": 4, "steps": 6},
    brief={"noises": 6, "steps": 6},
)
def saliency(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    target: Target = "logit",
    noises: int = 25,
    spread: float = 0.15,
    steps: int = 32,
    baseline: float | None = None,
    share: float = 0.05,
) -> Findings:
    """Draw three saliency maps of each sample and measure how concentrated they are.

    The gradient of a score of the predicted class; its mean over noisy copies (SmoothGrad); and its mean along the way from
    a baseline times that way (integrated gradients), whose sum is the score gained on the way. Colours of a pixel are
    summed, as absolute values, before anything is measured.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes; only ``target="loss"`` looks at them.
        threat: not used.
        draws: random numbers of these samples.
        target: what is explained: "logit" of the predicted class, its "lead" over the next, or the "loss" of the true class.
        noises: noisy copies, >= 1.
        spread: standard deviation of the noise as a fraction of the sample's own range, >= 0.
        steps: points along the way from the baseline, >= 1.
        baseline: value of all inputs where the way begins; None takes the lower bound.
        share: of the pixels, the largest, whose energy is measured; in (0, 1].

    Returns:
        Seven columns and the three maps, (B, *S); ``noises`` + ``steps`` + 1 rows forward and backward, and three more
        forward.

    Raises:
        InvalidValue: for counts, a spread or a share that are not allowed.
        ModelError: if the outputs or a gradient cannot be used.

    Source: the maps by Smilkov et al. 2017, arXiv:1706.03825, and Sundararajan, Taly & Yan 2017, arXiv:1703.01365; that
        adversarial training makes them sparser: Zhang & Zhu 2019, arXiv:1905.09797.

    Departures: maps keep their sign, colours are summed for the measures alone, and nothing is clipped at a percentile.
    """
    _check(target, noises, spread, steps, share)
    score = _score(target, model.decisions(x), y)
    plain = model.gradient(score, x)[1]
    smooth = torch.zeros_like(x)
    deviation = spread * (_ends(x, "amax") - _ends(x, "amin"))
    for number in range(noises):
        smooth += model.gradient(score, x + deviation * draws.normal(f"noise/{number}", x))[1] / noises
    start = torch.full_like(x, model.bounds.lower if baseline is None else baseline)
    integrated = torch.zeros_like(x)
    for step in range(steps):
        integrated += model.gradient(score, torch.lerp(start, x, (step + 0.5) / steps))[1] / steps
    integrated *= x - start
    maps = dict(zip(MAPS, (plain, smooth, integrated), strict=True))
    every = torch.arange(len(x), device=x.device)
    gained = score(model.logits(x), every) - score(model.logits(start), every)
    missing = (integrated.flatten(1).sum(1) - gained).abs()
    columns = {f"{name}_gini": gini(_pixels(found)) for name, found in maps.items()}
    columns |= {f"{name}_energy": top_share(_pixels(found), share) for name, found in maps.items()}
    length = integrated.flatten(1).abs().sum(1)
    columns["shortfall"] = torch.where(length > 0, missing / length, torch.nan)
    return Findings({name: column.to(x.dtype) for name, column in columns.items()}, pictures=maps)


def _score(target: Target, top: Tensor, y: Tensor) -> Scores:
    """Return what is explained, with its class fixed at the sample itself."""
    if target == "loss":
        return lambda z, rows: cross_entropy(z, y[rows])
    if target == "lead":
        return lambda z, rows: margin(z, top[rows])
    return lambda z, rows: z.gather(1, top[rows, None])[:, 0]


def _pixels(values: Tensor) -> Tensor:
    """Return absolute values summed over colours, (B, P); of inputs that are no images, as they are."""
    size = values.abs()
    return size.sum(1).flatten(1) if values.dim() == 4 else size.flatten(1)


def _ends(x: Tensor, end: Literal["amax", "amin"]) -> Tensor:
    if not len(x):
        return x
    return getattr(x.flatten(1), end)(1).reshape(-1, *([1] * (x.dim() - 1)))


def _check(target: str, noises: int, spread: float, steps: int, share: float) -> None:
    if target not in get_args(Target) or noises < 1 or steps < 1 or not spread >= 0 or not 0 < share <= 1:
        raise InvalidValue(
            f"target={target!r}, noises={noises}, spread={spread}, steps={steps}, share={share} were given",
            f"one of {get_args(Target)}, noises >= 1, spread >= 0, steps >= 1 and 0 < share <= 1 are allowed",
            "Leave them out for the defaults.",
        )
