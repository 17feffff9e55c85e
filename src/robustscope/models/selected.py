"""A model of which only some outputs are compared: 200 of a thousand classes, as ImageNet-A and -R are judged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from robustscope.core.errors import InvalidValue
from robustscope.models.loading import LoadedModel


class Selected(nn.Sequential):
    """A network with some of its outputs, in a new order.

    The selection is a linear layer of zeros and ones, which is exact, and which certifiers and twins know.

    Args:
        inner: maps (B, *S) to (B, K).
        outputs: which of the K.
        total: K.
    """

    def __init__(self, inner: nn.Module, outputs: Sequence[int], total: int) -> None:
        like = next(inner.parameters(), torch.empty(0))
        pick = nn.Linear(total, len(outputs), bias=False, device=like.device, dtype=like.dtype)
        with torch.no_grad():
            pick.weight.zero_()[range(len(outputs)), list(outputs)] = 1
        super().__init__(inner, pick.eval().requires_grad_(False))
        self.training = inner.training


def selected(model: LoadedModel, outputs: Sequence[int], names: Sequence[str]) -> LoadedModel:
    """Return a model that is asked about some of its classes alone; its softmax is over these.

    Args:
        model: with an output for each of ``names``.
        outputs: which, as :func:`robustscope.data.benchmarks.positions` returns them.
        names: of all its outputs.

    Raises:
        InvalidValue: for a black box that tells its decisions only.
    """
    classifier = model.classifier
    if classifier.access == "decisions":
        raise InvalidValue(
            f"some of the outputs of {model.name!r} were asked for, which tells decisions only",
            "a model with an output for each class is allowed",
            "A decision among all classes says nothing of which it is among a few.",
        )
    chosen = tuple(int(k) for k in outputs)
    module = Selected(classifier.module, chosen, len(names))
    mark = hashlib.sha256(f"{model.fingerprint} {len(names)} {chosen}".encode()).hexdigest()
    own = replace(classifier, module=module, class_names=tuple(names[k] for k in chosen))
    return replace(model, classifier=own, fingerprint=mark)
