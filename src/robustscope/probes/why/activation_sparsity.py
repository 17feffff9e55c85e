"""Sparsity of the activations: which share is zero, and how unequal the others are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustscope.core.draws import Draws
from robustscope.core.errors import ModelError
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.sparsity import gini
from robustscope.probes.why.weight_sparsity import BIBTEX

NAMES = "relu relu6 leaky_relu hardtanh prelu elu selu celu gelu silu mish softplus hardswish hardsigmoid tanh sigmoid"
ACTIVATIONS = frozenset(
    getattr(place, name + ending)
    for place in (F, torch, Tensor)
    for name in NAMES.split()
    for ending in ("", "_")
    if hasattr(place, name + ending)
)


@register(
    "activation_sparsity",
    version=1,
    source="Guo et al., 2018, arXiv:1810.09619",
    bibtex=BIBTEX,
    columns={
        "zeros": "share of the outputs of activation functions that are exactly zero",
        "gini": "Gini coefficient of the absolute outputs of a layer, averaged over layers by their units",
    },
    gaps={"gini": "the activations of all layers are zero"},
    invariant={"zeros": ("scale", "shift"), "gini": ("scale", "shift")},
    norms=("linf", "l2", "l1", "l0"),
)
def activation_sparsity(model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, *, draws: Draws) -> Findings:
    """Measure how sparse the activations of each sample are.

    Activation functions are recognised where they are called, as modules or as functions. Layers whose activations are all
    zero for a sample count as zeros and are left out of its Gini coefficient.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,); not used.
        threat: not used.
        draws: unused; nothing is random.

    Returns:
        Two columns; one forward row for each sample.

    Raises:
        ModelError: for a network that calls no activation function, or whose outputs cannot be used.

    Source: Guo, Zhang, Zhang & Chen 2018, arXiv:1810.09619.

    Departures: all layers together, not one after the other; networks without exact zeros are told apart by their Gini
    coefficients.
    """
    if not len(x):
        return Findings({"zeros": x.new_empty(0), "gini": x.new_empty(0)})
    watched = replace(model, module=_Watched(model), mean=None, std=None, class_names=None)
    units, zeros, even, weight = watched.logits(x).to(x.dtype)[:, -4:].unbind(1)
    return Findings({"zeros": zeros / units, "gini": torch.where(weight > 0, even / weight, torch.nan)})


class _Watched(nn.Module):
    """A network whose outputs carry the sums of its activations behind the logits."""

    def __init__(self, door: Classifier) -> None:
        super().__init__()
        self._door, self.network = door, door.module
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K + 4): logits, and the columns of :class:`_Listening`."""
        with _Listening(len(x)) as heard:
            logits = self._door._outputs(x)
        if heard.layers == 0:
            raise ModelError(
                "the network calls no activation function that is known",
                "networks with activation functions of torch are allowed",
                "Leave this probe out; exported and scripted networks hide their layers.",
            )
        return torch.cat([logits, heard.sums.to(logits)], 1)


class _Listening(TorchFunctionMode):
    """Inside this block, sums over activations are kept: units, zeros, units times Gini, and units that have one; (n, 4)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.layers, self.sums = rows, 0, torch.zeros(rows, 4, dtype=torch.float64)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call everything as it is, and look at what activation functions return."""
        out = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS and isinstance(out, Tensor) and out.dim() > 1 and len(out) >= self.rows:
            self._add(out.detach()[: self.rows].flatten(1))
        return out

    def _add(self, values: Tensor) -> None:
        self.layers += 1
        size, uneven = values.shape[1], gini(values).double().cpu()
        known = ~torch.isnan(uneven)
        zero = (values == 0).sum(1).double().cpu()
        columns = (torch.full_like(zero, size), zero, size * uneven.where(known, 0.0), size * known.double())
        self.sums += torch.stack(columns, 1)
