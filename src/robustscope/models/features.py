"""Classifiers whose outputs also carry the activations of an inner layer, for objectives that look inside."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from robustscope.core.errors import InvalidValue, ModelError, UnknownName, did_you_mean
from robustscope.core.types import Ledger
from robustscope.models.classifier import Classifier


class Tapped(nn.Module):
    """A network whose outputs carry the activations of one layer behind the logits; see :func:`tap`."""

    def __init__(self, door: Classifier, layer: str) -> None:
        super().__init__()
        self._door, self.network = door, door.module
        self.mean, self.std, self.bounds, self.layer = door.mean, door.std, tuple(door.bounds), layer
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K + 1 + F): logits, the shift, and the flattened activations plus the shift."""
        caught: list[Tensor] = []
        handle = self.network.get_submodule(self.layer).register_forward_hook(lambda m, i, out: caught.append(out))
        try:
            logits = self._door._outputs(x)
        finally:
            handle.remove()
        if len(caught) != 1 or not isinstance(caught[0], Tensor) or len(caught[0]) != len(x):
            raise ModelError(
                f"the layer {self.layer!r} was called {len(caught)} times, or returned no tensor with one row an input",
                "a layer that is called once and returns one row for each input is allowed",
                "Choose another layer.",
            )
        inner = caught[0].flatten(1).to(logits.dtype)
        shift = (logits.amin(1) - inner.amax(1).clamp(min=0) - 1).detach()[:, None]
        return torch.cat([logits, shift, inner + shift], 1)


def tap(model: Classifier, layer: str) -> Classifier:
    """Return the classifier with the activations of one layer as further outputs.

    They are shifted below every logit, so that the prediction, and with it every rule of success, is unchanged; the
    amount of the shift stands before them. Objectives read them with :func:`robustscope.geometry.objectives.activations`.
    Judge what an attack finds on ``model`` itself: softmax confidences see the further outputs.

    Args:
        model: the network.
        layer: name of a submodule, as ``named_modules`` has it; called once in each forward.

    Raises:
        UnknownName: if there is no such layer.

    Example:
        >>> model = Classifier(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval())
        >>> tap(model, "1").logits(torch.rand(2, 4)).shape
        torch.Size([2, 9])
    """
    known = [name for name, _ in model.module.named_modules() if name]
    if layer not in known:
        raise UnknownName(f"the layer {layer!r} was given", "", did_you_mean(layer, known))
    return replace(model, module=Tapped(model, layer), mean=None, std=None, class_names=None, ledger=Ledger())


def penultimate(model: Classifier) -> str:
    """Return the name of the layer whose activations the last linear layer turns into logits.

    Layers are taken in the order in which they were registered, which is that of forward for most networks; for others
    name the layer yourself.

    Raises:
        InvalidValue: if the network has no linear layer, or nothing before it.

    Example:
        >>> penultimate(Classifier(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()))
        '1'
    """
    leaves = [(name, part) for name, part in model.module.named_modules() if name and not list(part.children())]
    last = max((place for place, (_, part) in enumerate(leaves) if isinstance(part, nn.Linear)), default=0)
    if not last:
        raise InvalidValue(
            f"a {type(model.module).__name__} was given, in which no linear layer follows another layer",
            "a network that ends in a linear layer is allowed here",
            "Name the layer whose activations you mean, as named_modules has it.",
        )
    return leaves[last - 1][0]
