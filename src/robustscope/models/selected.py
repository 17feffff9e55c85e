"""A model of which only some outputs are compared: 200 of a thousand classes, as ImageNet-A and -R are judged."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustscope.core.errors import InvalidValue, ModelError
from robustscope.models.loading import LoadedModel


class Selected(nn.Module):
    """A network with some of its outputs, in a new order.

    Args:
        inner: maps (B, *S) to (B, K).
        outputs: which of the K.
        total: K; a network of another number is refused at the first call.
    """

    def __init__(self, inner: nn.Module, outputs: Sequence[int], total: int) -> None:
        super().__init__()
        self.inner, self.outputs, self.total = inner, tuple(int(k) for k in outputs), total
        self.training = inner.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, len(outputs)).

        Raises:
            ModelError: if the network has another number of outputs than the list that they were chosen from.
        """
        logits = self.inner(x)
        if logits.dim() != 2 or logits.shape[1] != self.total:
            raise ModelError(
                f"the model returned {tuple(logits.shape)} where its list names {self.total} classes",
                "one class in the list for each output is allowed",
                "Give the list that belongs to this model.",
            )
        return logits[:, torch.tensor(self.outputs, device=logits.device)]


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
