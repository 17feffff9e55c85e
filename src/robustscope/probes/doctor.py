"""The input doctor: is this model fed what it wants, and are its outputs what an attack needs?

A robust accuracy is worth nothing if the images were normalised twice or the labels are off by one. The doctor looks
before anything is attacked. It works on a copy of the model in evaluation mode, also where :class:`Classifier` would
refuse the model, and proves at the end that the original was left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import Bounds, Finding
from robustscope.data.base import Dataset
from robustscope.data.selection import stratified
from robustscope.models.classifier import Classifier
from robustscope.models.fingerprints import tensor_hash
from robustscope.models.loading import LoadedModel
from robustscope.models.randomness import kept_randomness, random_state, same_random_state
from robustscope.probes.doctor_case import Case
from robustscope.probes.doctor_inputs import check_class_count, check_labels, check_normalisation, check_range
from robustscope.probes.doctor_model import (
    check_determinism,
    check_dynamic,
    check_gradients,
    check_layers,
    check_mode,
    check_outputs,
    check_probabilities,
    check_weights,
)

BEFORE_RUNNING: tuple[Callable[[Case], Finding], ...] = (check_mode, check_weights, check_layers, check_range)
WHILE_RUNNING: dict[str, Callable[[Case], Finding]] = {
    "probabilities": check_probabilities,
    "class count": check_class_count,
    "normalisation": check_normalisation,
    "labels": check_labels,
    "determinism": check_determinism,
    "gradients": check_gradients,
    "autograd": check_dynamic,
}


def examine(
    model: LoadedModel | Classifier | nn.Module,
    dataset: Dataset | tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    samples: int = 256,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    bounds: Sequence[float] | None = None,
) -> list[Finding]:
    """Examine how a model and a data set fit together.

    Args:
        model: a loaded model, a classifier, or a bare module in any mode.
        dataset: a data set, or inputs (N, *S) with labels (N,).
        seed: decides which samples are looked at.
        samples: how many, each class in proportion; all if the data set has fewer.
        mean, std, bounds: as declared for a bare module; for the others they replace what is declared.

    Returns:
        One finding for each check, in the order of the checks; those with level "warning" or "error" carry a remedy in
        code. If the model cannot run on the data at all, later checks are "skipped".

    Raises:
        InvalidType: if the model is no module, or inputs and labels are no tensors.
        InvalidValue: if there are no samples, or mean, std or bounds make no sense.

    Example:
        >>> x = torch.tensor([[0.1, 0.9], [0.8, 0.2]] * 8)
        >>> findings = examine(nn.Linear(2, 2), (x, torch.tensor([1, 0] * 8)))
        >>> findings[0].name, findings[0].level
        ('mode', 'error')
    """
    module, declared = _open(model, mean, std, bounds)
    x, y, names = _take(dataset, samples, seed)
    before = _snapshot(module)
    with kept_randomness():
        case = Case(_working_copy(module), x, y, names, *declared)
        case.training = tuple(name or "the model" for name, part in module.named_modules() if part.training)
        try:
            findings = [check(case) for check in BEFORE_RUNNING]
            findings.append(check_outputs(case))
            runs = findings[-1].level != "error"
            for name, check in WHILE_RUNNING.items():
                findings.append(check(case) if runs else _skipped(name))
        finally:
            if case.module is module:
                _restore(module, before)
    return [*findings, _check_untouched(module, before)]


def _open(model: Any, mean: Any, std: Any, bounds: Any) -> tuple[nn.Module, tuple[Any, Any, Bounds]]:
    if isinstance(model, LoadedModel):
        model = model.classifier
    if isinstance(model, Classifier):
        if mean is None and std is None:
            mean, std = model.mean, model.std
        bounds = model.bounds if bounds is None else bounds
        model = model.module
    if not isinstance(model, nn.Module):
        raise InvalidType(
            f"a {type(model).__name__} was given to the doctor",
            "a loaded model, a classifier or a torch.nn.Module is allowed",
            "Load it first: load_model('net.json').",
        )
    found = Bounds(*bounds).check() if bounds is not None else Bounds(0.0, 1.0)
    # The classifier knows which means and stds are allowed; a harmless module lets it say so.
    checked = Classifier(nn.Identity().eval(), bounds=found, mean=mean, std=std)
    return model, (checked.mean, checked.std, found)


def _take(dataset: Any, samples: int, seed: int) -> tuple[Tensor, Tensor, tuple[str, ...] | None]:
    if samples < 1:
        raise InvalidValue(f"samples={samples} was given", "1 or more are allowed", "Write e.g. samples=256.")
    if isinstance(dataset, Dataset):
        ids = stratified(dataset.labels, min(samples, len(dataset)), seed, "doctor")
        return dataset.read(ids), torch.from_numpy(dataset.labels[ids]), dataset.class_names
    if not (isinstance(dataset, tuple) and len(dataset) == 2 and all(isinstance(part, Tensor) for part in dataset)):
        raise InvalidType(
            f"a {type(dataset).__name__} was given as the data",
            "a data set, or a pair of tensors (inputs, labels), is allowed",
            "Load it first: load_data('digits').",
        )
    x, y = dataset
    if x.dim() < 2 or y.shape != x.shape[:1] or not len(x) or y.is_floating_point():
        raise InvalidValue(
            f"inputs of shape {tuple(x.shape)} and labels of shape {tuple(y.shape)}, {y.dtype}, were given",
            "(N, *S) inputs and (N,) integer labels, N >= 1, are allowed",
            "Give one class index for each input.",
        )
    ids = stratified(y.cpu().numpy(), min(samples, len(x)), seed, "doctor")
    # 8-bit images are taken as they are: the range check then says what to do about them.
    return x[ids].detach().float() if not x.is_floating_point() else x[ids].detach(), y[ids].long(), None


def _working_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode; the module itself where it cannot be copied, to be restored afterwards."""
    try:
        worker = copy.deepcopy(module)
    except Exception:
        worker = module
    for part in worker.modules():
        part.training = False
    return worker


def _snapshot(module: nn.Module) -> dict[str, Any]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {
        "hash": tensor_hash(module),
        "tensors": {name: tensor.detach().clone() for name, tensor in tensors},
        "modes": [part.training for part in module.modules()],
        "grads": [None if p.grad is None else p.grad.detach().clone() for p in module.parameters()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "random": random_state(),
    }


def _restore(module: nn.Module, before: dict[str, Any]) -> None:
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            tensor.copy_(before["tensors"][name])
    for part, mode in zip(module.modules(), before["modes"], strict=True):
        part.training = mode


def _check_untouched(module: nn.Module, before: dict[str, Any]) -> Finding:
    after = _snapshot(module)
    grads = all(
        (a is None) == (b is None) and (a is None or torch.equal(a, b))
        for a, b in zip(before["grads"], after["grads"], strict=True)
    )
    checks = {
        "weights and buffers": before["hash"] == after["hash"],
        "training mode": before["modes"] == after["modes"],
        "requires_grad": before["requires_grad"] == after["requires_grad"],
        "stored gradients": grads,
        "global random generators": same_random_state(before["random"], after["random"]),
    }
    changed = [name for name, same in checks.items() if not same]
    if changed:
        return Finding(
            "state",
            "error",
            f"the examination changed {', '.join(changed)} of the model, which its forward must do by itself",
            "Load the model again, and look for in-place operations on weights or buffers in its forward.",
            {"changed": changed},
        )
    message = f"unchanged by this examination: {', '.join(checks)} (SHA-256 {after['hash'][:12]} before and after)"
    return Finding("state", "ok", message, data={"sha256": after["hash"]})


def _skipped(name: str) -> Finding:
    return Finding(name, "skipped", "not checked, since the model does not run on this data; see 'outputs'")
