"""The public door of the room: one probe of causes on one batch, arguments checked; and parts put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import ThreatModel
from robustscope.models.blackbox import require_gradients
from robustscope.models.classifier import Classifier
from robustscope.models.doors import check_draws, check_samples, check_subject
from robustscope.probes.why.cards import WHY, Findings, WhyCard


def investigate(
    probe: str | WhyCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel | str,
    *,
    targets: Tensor | None = None,
    draws: Draws | None = None,
    seed: int = 0,
    **parameters: Any,
) -> Findings:
    """Look for a cause of robustness in a batch of samples.

    Args:
        probe: registered name, or a card.
        model: the classifier.
        x: (B, *S), inputs inside the bounds.
        y: int64 (B,), true classes.
        threat: norm, bounds and finite radius, or a text such as "linf:8/255" in the bounds of the model.
        targets: int64 (B,), the classes of the textures, which probes of cue conflicts need and no others take.
        draws: random numbers; None numbers the samples 0 to B - 1 under ``seed``.
        seed: used when ``draws`` is None.
        **parameters: hyper-parameters, checked against the card.

    Returns:
        The columns, figures and pictures that the card declares.

    Raises:
        InvalidValue, InvalidType, UnknownName: for arguments that the card does not allow.
        ModelError: if the model's outputs or derivatives cannot be used.

    Example:
        >>> model = Classifier(torch.nn.Linear(4, 3).eval())
        >>> found = investigate("margins", model, torch.rand(5, 4), torch.zeros(5, dtype=torch.int64), "linf:0.1")
        >>> found.columns["logit_margin"].shape
        torch.Size([5])
    """
    card = probe if isinstance(probe, WhyCard) else WHY[probe]
    parsed = check_subject(model, threat)
    card.check(parsed)
    resolved = card.resolve(parameters)
    check_samples(model, x, y, parsed, targets)
    if targets is not None and card.inputs != "cue conflict":
        raise InvalidValue(f"targets were given to the probe {card.name!r}", "it looks at one cue", "Leave them out.")
    if card.inputs != "any" and x.dim() != 4:
        raise InvalidValue(
            f"inputs of shape {tuple(x.shape)} were given to the probe {card.name!r}",
            "images (B, C, H, W) are allowed",
            "Give the images in their own shape, not flattened.",
        )
    if card.access in ("weights", "gradients"):
        require_gradients(model.module)
    draws = check_draws(draws, seed, x, card.name)
    cues = {"targets": targets} if card.inputs == "cue conflict" else {}
    return card.function(model, x, y, parsed, draws=draws, **cues, **resolved)


def merge(parts: Sequence[Findings]) -> Findings:
    """Put the findings of the parts of a batch together, in their order.

    Args:
        parts: one or more, of one probe with the same parameters; figures and axes are those of the first.

    Example:
        >>> parts = [Findings({"a": torch.tensor([1.0])}), Findings({"a": torch.tensor([2.0])})]
        >>> merge(parts).columns["a"]
        tensor([1., 2.])
    """
    first = parts[0]
    columns = {name: torch.cat([part.columns[name] for part in parts]) for name in first.columns}
    pictures = {name: torch.cat([part.pictures[name] for part in parts]) for name in first.pictures}
    return Findings(columns, first.figures, pictures, first.axes)
