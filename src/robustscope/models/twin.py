"""A twin of the model for the search: the same function, computed faster; verdicts stay with the original."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean
from robustscope.models.classifier import Classifier
from robustscope.models.randomness import kept_randomness

KINDS = ("off", "folded", "compiled", "bfloat16", "float16")
"""off: no twin. folded: batch norm folded into convolutions, channels last. compiled: that, through torch.compile.
bfloat16, float16: folded, with autocast to that precision; on accelerators only, for on a CPU it is many times slower."""

CHECKED = 8
"""Samples on which a twin must agree with its original."""

TOLERANCE = {"off": (0.0, 0.0), "folded": (1e-4, 1e-2), "compiled": (1e-4, 1e-2)}
"""Most that logits may differ, as a share of the largest, and most that a gradient may, as a share of its length.

Folding moves float32 logits by about 1e-6 of the largest; where that carries a ReLU over its kink, a gradient changes.
"""
TOLERANCE_16_BIT = (5e-2, 0.5)

_CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: nn.Conv1d,
    nn.BatchNorm2d: nn.Conv2d,
    nn.BatchNorm3d: nn.Conv3d,
}


@dataclass(frozen=True)
class Twin:
    """What stands in for a model while an attack searches.

    Args:
        classifier: what to search on; the original itself where no twin is used. It counts into the original's ledger.
        kind: one of ``KINDS``; "off" where none was asked for, or the one asked for was refused.
        notes: what was done, or why it was refused; one sentence each.
        forward: rows that the comparison with the original sent forward.
        backward: rows that it sent backward.
    """

    classifier: Classifier
    kind: str = "off"
    notes: tuple[str, ...] = ()
    forward: int = 0
    backward: int = 0


def check_kind(kind: str, device: str | torch.device) -> None:
    """Refuse a kind of twin that does not exist, or 16-bit arithmetic on a CPU.

    Raises:
        UnknownName, InvalidValue: saying which.

    Example:
        >>> check_kind("folded", "cpu")
    """
    if kind not in KINDS:
        raise UnknownName(f"twin={kind!r} was given", "", did_you_mean(str(kind), KINDS))
    if kind in ("bfloat16", "float16") and torch.device(device).type == "cpu":
        raise InvalidValue(
            f"twin={kind!r} was given for a model on the CPU",
            "twin='off', 'folded' or 'compiled' is allowed there",
            "16-bit arithmetic is an order of magnitude slower on a CPU; say twin='folded'.",
        )


def make_twin(model: Classifier, x: Tensor, kind: str = "folded") -> Twin:
    """Return a twin of the model if it agrees with it on a few inputs, else the model itself and the reason.

    The module is copied and the copy changed, so the original stays as it is, bit for bit. Rows of the comparison, 8
    forward and backward on each of the two, pass the model's ledger.

    Args:
        model: the original.
        x: (B, *S), inputs of the kind that will be attacked; the first 8 are compared.
        kind: one of ``KINDS``.

    Raises:
        UnknownName, InvalidValue: as :func:`check_kind`.

    Example:
        >>> module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        >>> make_twin(Classifier(module.eval()), torch.rand(8, 1, 4, 4)).notes
        ('1 batch norm was folded into a convolution', 'channels last')
    """
    check_kind(kind, x.device)
    if kind == "off" or not len(x):
        return Twin(model)
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules()):
        return Twin(model, notes=(f"the {kind} twin was refused: the model has hooks, which may see what it changes",))
    before = replace(model.ledger)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the compiler's own parts
            module, notes = _build(model.module, kind)
            candidate = replace(model, module=module)
            seen = _disagreement(model, candidate, x[:CHECKED], kind)
    except Exception as error:  # a copy, a compiler or the model may fail in any way; the search then has the original
        seen = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    spent = model.ledger.forward - before.forward, model.ledger.backward - before.backward
    if seen:
        return Twin(model, "off", (f"the {kind} twin was refused: {seen}",), *spent)
    return Twin(candidate, kind, notes, *spent)


def _build(original: nn.Module, kind: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a changed copy of a module and what was changed."""
    module: Any = copy.deepcopy(original).requires_grad_(False)
    notes = list(fold(module))
    pictures = any(isinstance(part, nn.Conv2d) for part in module.modules())
    if pictures:
        module = module.to(memory_format=torch.channels_last)
        notes.append("channels last")
    if kind == "compiled":
        module = torch.compile(module, dynamic=True)
        notes.append("compiled")
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(kind)
    if dtype is not None:
        notes.append(f"autocast to {kind}")
    return _Stand(module, pictures, dtype).eval(), tuple(notes)


class _Stand(nn.Module):
    """Calls a module with its inputs in the layout and precision that it is fast in."""

    def __init__(self, module: nn.Module, channels_last: bool, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.module, self.channels_last, self.dtype = module, channels_last, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, *S) to logits (B, K), in the dtype of ``x``."""
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with nullcontext() if self.dtype is None else torch.autocast(x.device.type, self.dtype):
            return self.module(x).to(x.dtype)


def _disagreement(model: Classifier, twin: Classifier, x: Tensor, kind: str) -> str:
    """Say how the twin differs from its original on ``x``, or return an empty text.

    A model that draws random numbers differs from itself too, and is searched as it is.
    """
    for_logits, for_gradients = TOLERANCE.get(kind, TOLERANCE_16_BIT)
    found = []
    for classifier in (model, twin):
        with kept_randomness():
            found.append(classifier.gradient(_lead, x))
    (_, gradients, logits), (_, others, changed) = found
    gap = (logits - changed).abs().max() / logits.abs().max().clamp(min=torch.finfo(logits.dtype).tiny)
    if not gap <= for_logits:
        return f"its logits differ by {gap:.1e} of the largest, where {for_logits:g} is allowed"
    length = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    away = torch.linalg.vector_norm((gradients - others).flatten(1), dim=1)
    if not (away <= for_gradients * length).all():
        share = (away / length).max()
        return f"its gradients differ by {share:.1e} of their length, where {for_gradients:g} is allowed"
    return ""


def _lead(logits: Tensor, rows: Tensor) -> Tensor:
    """Return how far the largest logit is ahead of the next: unlike a loss of probabilities it never saturates."""
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second


# -------------------------------------------------------------------------------------------------------- folding


def fold(module: nn.Module) -> Iterator[str]:
    """Fold each batch norm of a module into the convolution that alone feeds it, in place; say what was done.

    The pairs are found by tracing the module with torch.fx, so they may stand anywhere; the code of the module stays
    what runs. Where tracing fails, only neighbours inside ``nn.Sequential`` are found.

    Args:
        module: in evaluation mode; a copy of the user's.
    """
    try:
        pairs = _traced_pairs(module)
    except Exception as error:  # whatever the model's own code makes of a tracer's stand-ins
        pairs = _neighbours(module)
        yield f"tracing failed ({type(error).__name__}), so only batch norms inside nn.Sequential were looked at"
    count = 0
    for convolution, norm in pairs:
        if _foldable(module.get_submodule(convolution), module.get_submodule(norm)):
            _fold_pair(module, convolution, norm)
            count += 1
    if count:
        yield (
            f"{count} batch norms were folded into convolutions"
            if count > 1
            else ("1 batch norm was folded into a convolution")
        )


def _traced_pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of (convolution, batch norm) where the second alone reads what the first gives.

    A module that is called twice, under whatever name, is left out: folding would change its other calls too.
    """
    graph = fx.Tracer().trace(module)
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(module.get_submodule(str(node.target))) for node in calls)
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = str(before.target), str(node.target)
        if all(times[id(module.get_submodule(name))] == 1 for name in names):
            pairs.append(names)
    return pairs


def _neighbours(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of modules that follow each other in an ``nn.Sequential`` and stand nowhere else."""
    times = Counter(id(part) for _, part in module.named_modules(remove_duplicate=False))
    pairs = []
    for name, part in module.named_modules():
        if type(part) is not nn.Sequential:
            continue
        names = [f"{name}.{child}".lstrip(".") for child in part._modules]
        for one, two in pairwise(names):
            if all(times[id(module.get_submodule(each))] == 1 for each in (one, two)):
                pairs.append((one, two))
    return pairs


def _foldable(convolution: nn.Module, norm: nn.Module) -> bool:
    """Tell whether both are torch's own kinds, of one dimension, with fixed statistics and as many channels."""
    if _CONVOLUTIONS.get(type(norm)) is not type(convolution):
        return False
    known: Any = norm
    return known.running_mean is not None and len(known.running_mean) == convolution.out_channels


def _fold_pair(module: nn.Module, convolution: str, norm: str) -> None:
    """Give a convolution the weights and bias that do the batch norm's work, and put nothing in the latter's place.

    y = g (w x + b - m) / sqrt(v + e) + h is a convolution by w g / sqrt(v + e) with bias (b - m) g / sqrt(v + e) + h,
    computed in float64.
    """
    into: Any = module.get_submodule(convolution)
    out: Any = module.get_submodule(norm)
    scale = (out.running_var.double() + out.eps).rsqrt()
    scale = scale if out.weight is None else scale * out.weight.double()
    shift = -out.running_mean.double() if into.bias is None else into.bias.double() - out.running_mean.double()
    shift = shift * scale if out.bias is None else shift * scale + out.bias.double()
    weight = into.weight.double() * scale.reshape(-1, *([1] * (into.weight.dim() - 1)))
    into.weight = nn.Parameter(weight.to(into.weight), requires_grad=False)
    into.bias = nn.Parameter(shift.to(into.weight), requires_grad=False)
    parent, _, leaf = norm.rpartition(".")
    setattr(module.get_submodule(parent), leaf, nn.Identity())
