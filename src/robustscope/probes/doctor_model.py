"""Checks of the doctor about the model: mode, weights, layers, outputs, determinism, gradients, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from robustscope.core.types import Finding
from robustscope.models.classifier import looks_like_probabilities
from robustscope.probes.doctor_case import Case, percent

TOLERANCE = 1e-4  # of the largest logit; kernels for other batch sizes round differently by about 1e-6
PASSES = 5  # over the same samples, to see whether outputs are random
ALONE = 16  # samples that are also sent through one at a time
ZEROS = 0.05  # share of samples whose gradient may be exactly zero


def check_mode(case: Case) -> Finding:
    """Say which parts are in training mode."""
    if not case.training:
        return Finding("mode", "ok", "the model is in evaluation mode")
    names = ", ".join(case.training[:5]) + (f" and {len(case.training) - 5} more" if len(case.training) > 5 else "")
    kinds = {type(part).__name__ for part in case.module.modules()}
    touched = sorted(k for k in kinds if "BatchNorm" in k or "Dropout" in k)
    why = f"; it holds {', '.join(touched)}, which act differently then" if touched else ""
    exported = isinstance(case.module, torch.fx.GraphModule)
    remedy = "for part in model.modules(): part.training = False  # exported" if exported else "model.eval()"
    message = f"{len(case.training)} part(s) are in training mode ({names}){why}; the other checks used a copy in evaluation mode"
    return Finding("mode", "error", message, remedy, {"parts": list(case.training)})


def check_weights(case: Case) -> Finding:
    """Look for NaN and infinite values in parameters and buffers."""
    tensors = [*case.module.named_parameters(), *case.module.named_buffers()]
    broken = [n for n, t in tensors if t.is_floating_point() and not torch.isfinite(t).all()]
    count = sum(t.numel() for _, t in tensors)
    if broken:
        message = f"{len(broken)} of {len(tensors)} tensors hold NaN or infinite values: {', '.join(broken[:5])}"
        remedy = "Load an earlier checkpoint: training has probably diverged."
        return Finding("weights", "error", message, remedy, {"tensors": broken})
    return Finding("weights", "ok", f"all {count} values in {len(tensors)} tensors are finite", data={"values": count})


def check_layers(case: Case) -> Finding:
    """Look for quantised or integer layers and for half precision."""
    parts = [name for name, part in case.module.named_modules() if "quantized" in type(part).__module__]
    tensors = [n for n, t in case.module.named_parameters() if not t.is_floating_point()]
    tensors += [n for n, t in [*case.module.named_parameters(), *case.module.named_buffers()] if t.is_quantized]
    if parts or tensors:
        found = ", ".join([*parts, *tensors][:5])
        remedy = "model = make_model(); model.load_state_dict(float_weights)  # the network before quantisation"
        return Finding(
            "layers",
            "error",
            f"quantised or integer layers have no gradient: {found}",
            remedy,
            {"parts": [*parts, *tensors]},
        )
    half = [n for n, t in case.module.named_parameters() if t.dtype in (torch.float16, torch.bfloat16)]
    if half:
        message = f"{len(half)} tensors are in half precision: small gradients round to zero there"
        return Finding("layers", "warning", message, "model.float()", {"parts": half})
    return Finding("layers", "ok", "no quantised, integer or half-precision layers")


def check_outputs(case: Case) -> Finding:
    """Run the model once: does it accept the inputs and return finite rows of numbers?"""
    shape = tuple(case.x.shape)
    if case.declared is not None and len(case.declared[0]) not in (1, shape[1]):
        message = f"mean and std have {len(case.declared[0])} channels, the inputs {shape[1]}"
        return Finding(
            "outputs", "error", message, f"load_model(..., mean=({'0.5, ' * shape[1]}), ...)  # one per channel"
        )
    try:
        outputs = case.run(case.normalised(case.x, case.declared))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        message = f"the model raised {type(error).__name__} on inputs of shape {shape}: {reason}"
        remedy = "print(next(model.parameters()).shape)  # compare size, channels and dtype with what it was trained on"
        return Finding("outputs", "error", message, remedy)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(case.x):
        message = f"the model returned shape {tuple(outputs.shape)} for inputs of shape {shape}"
        remedy = "Wrap it so that forward returns logits of shape (B, K), e.g. return model(x).flatten(1)"
        return Finding("outputs", "error", message, remedy)
    bad = (~torch.isfinite(outputs)).any(1).sum().item()
    if bad:
        message = f"NaN or infinite outputs for {bad} of {len(outputs)} samples"
        remedy = "with torch.autograd.detect_anomaly(): model(x)  # look for log(0), division by zero, overflow"
        return Finding("outputs", "error", message, remedy, {"samples": bad})
    case.logits = outputs
    low, high = outputs.min().item(), outputs.max().item()
    message = f"{len(outputs)} finite rows of {outputs.shape[1]} outputs in [{low:.4g}, {high:.4g}]"
    return Finding("outputs", "ok", message, data={"low": low, "high": high})


def check_probabilities(case: Case) -> Finding:
    """Look for softmax or log-softmax outputs posing as logits."""
    name, rows = "probabilities", case.logits.double()
    if rows.shape[1] < 2:
        return Finding(name, "skipped", "one output only; see 'class count'")
    if looks_like_probabilities(case.logits):
        saturated = (rows.max(1).values == 1).double().mean().item()
        message = (
            f"outputs are softmax probabilities: they sum to 1, and {percent(saturated)} of samples reach exactly 1"
        )
        remedy = "return logits  # leave out the softmax at the end of forward; softmax flattens gradients"
        return Finding(name, "error", message, remedy, {"kind": "softmax", "saturated": saturated})
    total = rows.logsumexp(1).abs().max().item()
    if total < 1e-4 and rows.max().item() <= 1e-6:
        message = (
            f"outputs are log-softmax: logsumexp of every row is 0 to {total:.1g}; margins and cross-entropy are right"
        )
        remedy = "return logits  # leave out log_softmax, if scaled losses such as DLR are to see raw logits"
        return Finding(name, "warning", message, remedy, {"kind": "log-softmax"})
    return Finding(name, "ok", "outputs are neither softmax nor log-softmax values")


def check_determinism(case: Case) -> Finding:
    """Run several times, and one sample at a time: the same input must give the same logits."""
    inputs = case.normalised(case.x, case.declared)
    scale = max(case.logits.abs().max().item(), 1e-12)
    again = torch.stack([case.run(inputs) for _ in range(PASSES - 1)])
    twice = (again - case.logits).abs().max().item() / scale
    if twice > TOLERANCE:
        flips = (again.argmax(2) != case.logits.argmax(1)).any(0).double().mean().item()
        message = f"{PASSES} passes differ by up to {percent(twice)} of the largest logit; {percent(flips)} of predictions change"
        remedy = (
            "model.eval()  # and look for noise or F.dropout without training=self.training; if the noise is meant, "
            "--suite rand averages over it"
        )
        return Finding("determinism", "error", message, remedy, {"difference": twice, "flips": flips})
    some = inputs[:ALONE]
    try:
        alone = case.run(some, batch_size=1)
    except Exception as error:
        message = (
            f"the model raised {type(error).__name__} on a batch of one: {(str(error).splitlines() or [''])[0][:160]}"
        )
        return Finding("determinism", "error", message, "Export or write it for any batch size; look for squeeze().")
    gap = (alone - case.logits[:ALONE]).abs().max().item() / scale if alone.shape == case.logits[:ALONE].shape else 1.0
    data = {"difference": twice, "alone": gap}
    if gap > TOLERANCE:
        message = (
            f"alone in a batch, samples get other logits than among others: by {percent(gap)} of the largest logit"
        )
        remedy = "norm.track_running_stats = True  # statistics must not come from the batch: samples are coupled"
        return Finding("determinism", "error", message, remedy, data)
    message = f"{PASSES} passes differ by {twice:.1g}, batches of 1 and {min(64, len(inputs))} by {gap:.1g} of the largest logit"
    return Finding("determinism", "ok", message, data=data)


def check_gradients(case: Case) -> Finding:
    """Ask for input gradients of the margin and of cross-entropy, and count the samples where they are exactly zero."""
    name = "gradients"
    if case.logits.shape[1] < 2 or not ((case.y >= 0) & (case.y < case.logits.shape[1])).all():
        return Finding(name, "skipped", "labels and outputs do not fit; see 'class count'")
    found: dict[str, float] = {}
    for loss in ("margin", "cross-entropy"):
        try:
            flat = _gradient(case, loss)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:160]
            return Finding(name, "error", f"the backward pass failed ({reason})", _SCORES_ONLY, {"reason": reason})
        if flat is None:
            message = "the outputs do not depend on the inputs through autograd: there is no gradient"
            return Finding(name, "error", message, _SCORES_ONLY)
        if not torch.isfinite(flat).all():
            bad = (~torch.isfinite(flat)).any(1).sum().item()
            message = f"the gradient of the {loss} is NaN or infinite for {bad} of {len(flat)} samples"
            return Finding(
                name, "error", message, "x = (x * x).sum(1).add(1e-12).sqrt()  # keep sqrt and norm away from 0"
            )
        found[loss] = (flat == 0).all(1).double().mean().item()
    margin, entropy = found["margin"], found["cross-entropy"]
    if margin > ZEROS:
        message = (
            f"the input gradient is exactly zero for {percent(margin)} of samples: some layer is flat there "
            "(rounding, sign, steps, or units that are all off)"
        )
        return Finding(name, "error" if margin > 0.5 else "warning", message, _SCORES_ONLY, {"zero": found})
    if entropy > ZEROS:
        message = (
            f"the gradient of cross-entropy vanishes for {percent(entropy)} of samples, that of the margin for "
            f"{percent(margin)}: logits are so far apart that softmax is exactly 1"
        )
        return Finding(
            name, "warning", message, "loss='margin'  # or 'dlr'; never cross-entropy alone", {"zero": found}
        )
    message = f"exactly zero for {percent(margin)} of samples (margin) and {percent(entropy)} (cross-entropy)"
    return Finding(name, "ok", message, data={"zero": found})


class _Watch(TorchFunctionMode):
    """Notices calls of autograd."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func in (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
        return func(*args, **(kwargs or {}))


def check_dynamic(case: Case) -> Finding:
    """Watch whether the model calls autograd inside its forward: a defence that works while it predicts."""
    name = "autograd"
    with _Watch() as watch:
        case.run(case.normalised(case.x[:1], case.declared))
    if not watch.calls:
        return Finding(name, "ok", "forward does not call autograd")
    message = f"forward calls autograd {watch.calls} time(s): the model changes or purifies its input while it predicts"
    remedy = (
        "Attack through that step, or attack the model before it and transfer; gradients of the whole are not enough."
    )
    return Finding(name, "warning", message, remedy, {"calls": watch.calls})


_SCORES_ONLY = (
    "Remove torch.no_grad, detach, round or sign from forward, or use attacks that need scores only "
    "(robustscope list attacks)"
)


def _gradient(case: Case, loss: str) -> Tensor | None:
    """Return (B, D) input gradients, None if there is no path from inputs to outputs."""
    parts = []
    for x, y in zip(case.x.split(64), case.y.split(64), strict=True):
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            logits = case.module(case.normalised(leaf, case.declared))
            if not logits.requires_grad:
                return None
            if loss == "margin":
                own = logits.gather(1, y[:, None]).squeeze(1)
                others = logits.scatter(1, y[:, None], -torch.inf)
                value = own - others.max(1).values
            else:
                value = torch.nn.functional.cross_entropy(logits, y, reduction="none")
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        if gradient is None:
            return None
        parts.append(gradient.detach().flatten(1))
    return torch.cat(parts)
