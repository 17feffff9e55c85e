"""Confidence: how sure the network is, and whether rightly, on clean samples and under attack."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.geometry.losses import cross_entropy
from robustscope.geometry.rules import is_adversarial
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.walks import ascend, check_walk

BIBTEX = """@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {International Conference on Machine Learning},
  year = {2017}
}"""
WORDS = {
    "confidence": "probability of the predicted class",
    "correct": "1 where the predicted class is the true one, else 0",
    "overconfidence": "confidence less correct: its mean is by how much the confidences promise too much",
    "brier": "squared distance of the probabilities to the true class, 0 to 2",
}
COLUMNS = {**WORDS, **{f"attacked_{name}": f"under attack: {words}" for name, words in WORDS.items()}}


@register(
    "confidence",
    version=1,
    source="Guo et al., 2017, arXiv:1706.04599 (calibration); Brier, 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2",
    bibtex=BIBTEX,
    columns=COLUMNS,
    robust={"attacked_overconfidence": "lower", "attacked_brier": "lower"},
    invariant={
        **dict.fromkeys(COLUMNS, ("shift",)),
        "correct": ("scale", "shift"),
    },
    quick={"steps": 4},
    brief={"steps": 6, "relative_step_size": 0.4},
)
def confidence(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    x_adv: Tensor | None = None,
    steps: int = 10,
    relative_step_size: float = 0.25,
) -> Findings:
    """Measure confidence and calibration of each sample, clean and where the loss was ascended.

    Where no examples are given, the cross-entropy is ascended by a few steps inside the threat set. That is a probe, not an
    evaluation: ``attacked_correct`` is no robust accuracy. The calibration error of a set of samples follows from the
    columns, :func:`robustscope.analyses.calibration.rms_calibration_error`.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), true classes.
        threat: where to look.
        draws: random numbers of these samples.
        x_adv: (B, *S), examples of an attack to look at; None ascends the loss.
        steps: gradients of the ascent, >= 1.
        relative_step_size: step size as a fraction of epsilon, > 0.

    Returns:
        Four columns, clean and attacked; ``steps`` + 3 forward and ``steps`` backward rows for each sample.

    Raises:
        InvalidValue: for fewer than one step, or examples of another shape.
        ModelError: if the outputs or a gradient cannot be used.

    Source: Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599, for confidence and calibration; Brier 1950 for his score.
    """
    check_walk(steps, relative_step_size)
    if x_adv is not None and x_adv.shape != x.shape:
        raise InvalidValue(
            f"x_adv of shape {tuple(x_adv.shape)} were given for inputs {tuple(x.shape)}",
            "one example for each input is allowed",
            "Give x_adv of an attack's result for these samples.",
        )
    if x_adv is None:
        _, x_adv = ascend(
            model,
            x,
            threat,
            lambda z, rows: cross_entropy(z, y[rows]),
            draws=draws,
            steps=steps,
            relative_step_size=relative_step_size,
        )
    attacked = {f"attacked_{name}": column for name, column in _judge(model.logits(x_adv), y).items()}
    columns = {**_judge(model.logits(x), y), **attacked}
    return Findings({name: column.to(x.dtype) for name, column in columns.items()})


def _judge(logits: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the columns of one set of logits (B, K)."""
    shares = logits.softmax(1)
    right = (~is_adversarial(logits, y)).to(shares.dtype)
    sure = shares.amax(1)
    truth = torch.zeros_like(shares).scatter_(1, y[:, None], 1.0)
    return {
        "confidence": sure,
        "correct": right,
        "overconfidence": sure - right,
        "brier": (shares - truth).square().sum(1),
    }
