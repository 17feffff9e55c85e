"""Checks of the doctor about inputs and labels: range, normalisation, label order, number of classes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from robustscope.core.types import Finding
from robustscope.probes.doctor_case import Case, Stats, percent

COMMON_STATS: dict[str, Stats] = {
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "CIFAR-10 (std averaged over images)": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "MNIST": ((0.1307,), (0.3081,)),
    "0.5 and 0.5": ((0.5,), (0.5,)),
}
NARROW = 0.02  # share of the bounds that the data must span
MARGIN = 0.03  # gain in accuracy below which another normalisation is not worth a word
Z = 3.5  # standard errors of the paired difference; a dozen candidates are tried


def check_range(case: Case) -> Finding:
    """Compare the values of the inputs with the declared bounds."""
    low, high = case.x.min().item(), case.x.max().item()
    lower, upper = case.bounds
    data = {"low": low, "high": high, "bounds": [lower, upper]}
    seen, declared = f"inputs lie in [{low:.4g}, {high:.4g}]", f"declared bounds are [{lower:g}, {upper:g}]"
    if not math.isfinite(low) or not math.isfinite(high):
        remedy = "x = x[torch.isfinite(x).flatten(1).all(1)]  # and find out where the others come from"
        return Finding("range", "error", "inputs hold NaN or infinite values", remedy, data)
    if low < lower or high > upper:
        if low >= 0 and 64 < high <= 255:
            remedy = "x = x / 255  # 8-bit images"
        elif low < 0 and lower == 0:
            remedy = (
                "Undo the normalisation and declare it instead: x = x * std + mean; load_model(..., mean=mean, std=std)"
            )
        else:
            remedy = (
                f"load_model(..., bounds=({min(low, lower):.4g}, {max(high, upper):.4g}))  # if these values are valid"
            )
        return Finding("range", "error", f"{seen}, but {declared}", remedy, data)
    if high - low < NARROW * (upper - lower):
        where = percent((high - low) / (upper - lower))
        message = f"{seen}: they span {where} of the {declared}; perhaps divided by 255 twice, or the bounds are wrong"
        return Finding("range", "warning", message, "x = x * 255  # or declare bounds=(0, 1)", data)
    return Finding("range", "ok", f"{seen}; {declared}", data=data)


def _candidates(case: Case) -> Iterator[tuple[str, Tensor, str]]:
    """Yield (name, inputs as the module would get them, remedy in code) for each way of reading the inputs."""
    if case.declared is not None:
        yield "none", case.x, "load_model(..., mean=0, std=1)  # the model normalises by itself"
    channels = case.x.shape[1]
    for name, stats in COMMON_STATS.items():
        if len(stats[0]) in (1, channels) and stats != case.declared:
            yield name, case.normalised(case.x, stats), f"load_model(..., mean={stats[0]}, std={stats[1]})"
    if case.bounds.upper <= 1:
        shown = "(1 / 255,)"
        yield "values from 0 to 255", case.x * 255, f"load_model(..., mean=(0,), std={shown})  # trained on 0..255"
    elif case.bounds.upper >= 255:
        yield "values from 0 to 1", case.x / 255, "load_model(..., mean=(0,), std=(255,))  # trained on 0..1"


def check_normalisation(case: Case) -> Finding:
    """Try common normalisations, none and other scales, and say which gives the best accuracy.

    Another one is reported if its accuracy is higher by 3 points and by 3.5 standard errors of the paired difference.
    """
    right = case.logits.argmax(1) == case.y
    base = right.double().mean().item()
    label = "as declared" if case.declared else "none, as declared"
    accuracies, best = {label: base}, ("", base, "", case.logits)
    for name, inputs, remedy in _candidates(case):
        logits = case.run(inputs)
        accuracies[name] = case.accuracy(logits)
        if accuracies[name] > best[1] and torch.isfinite(logits).all():
            best = (name, accuracies[name], remedy, logits)
    table = ", ".join(f"{name} {percent(value)}" for name, value in accuracies.items())
    name, value, remedy, logits = best
    other = logits.argmax(1) == case.y
    gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
    if not name or value - base < MARGIN or gained - lost < Z * math.sqrt(gained + lost):
        message = f"no other normalisation is better; accuracy on {len(case.y)} samples: {table}"
        return Finding("normalisation", "ok", message, data={"accuracy": accuracies})
    case.best_logits = logits
    kind = "applied twice" if name == "none" else "missing" if case.declared is None else "another one"
    message = (
        f"normalisation is probably {kind}: with {name!r} the accuracy is {percent(value)} instead of {percent(base)} "
        f"({gained} of {len(case.y)} samples become right, {lost} wrong); all tried: {table}"
    )
    level = "error" if value - base > 0.10 else "warning"
    return Finding(
        "normalisation", level, message, remedy, {"accuracy": accuracies, "best": name, "gain": value - base}
    )


def check_class_count(case: Case) -> Finding:
    """Compare the number of outputs with the labels, and say which losses need more classes."""
    outputs, highest, lowest = case.logits.shape[1], int(case.y.max()), int(case.y.min())
    data = {"outputs": outputs, "lowest": lowest, "highest": highest}
    named = f" ({len(case.class_names)} named classes)" if case.class_names else ""
    seen = f"{outputs} outputs, labels from {lowest} to {highest}{named}"
    if outputs < 2:
        remedy = "logits = torch.stack([-z / 2, z / 2], dim=1)  # z: the single logit, of shape (B,)"
        return Finding("class count", "error", f"{seen}: one output is no classifier of two classes", remedy, data)
    if highest >= outputs or lowest < 0:
        remedy = f"y = y - {lowest}  # if labels do not start at 0" if lowest > 0 else "Load a model of these classes."
        return Finding("class count", "error", f"{seen}: labels must lie in 0..{outputs - 1}", remedy, data)
    if case.class_names and len(case.class_names) != outputs:
        remedy = "y = torch.tensor(order)[y]  # order[k]: the model's number for class k of the data"
        message = f"{seen}: the model tells apart other classes than the data has"
        return Finding("class count", "warning", message, remedy, data)
    if outputs < 4:
        which = "untargeted and targeted" if outputs < 3 else "targeted"
        message = f"{seen}; the {which} DLR loss is undefined (it needs 3 classes, targeted 4)"
        return Finding("class count", "warning", message, "loss='margin'  # instead of loss='dlr'", data)
    return Finding("class count", "ok", seen, data=data)


def check_labels(case: Case) -> Finding:
    """Look for labels in another order: a shift by one, or a permutation of classes.

    The permutation that fits best is found on one half of the samples by the Hungarian method on the confusion matrix
    and judged on the other half, so that it cannot look good by chance. Under a wrong normalisation the outputs of the
    best one are used.
    """
    logits = case.logits if case.best_logits is None else case.best_logits
    predicted, classes, total = logits.argmax(1), logits.shape[1], len(case.y)
    accuracy, chance = case.accuracy(logits), 1 / classes
    data = {"accuracy": accuracy, "chance": chance}
    permutation, before, after = _best_permutation(predicted, case.y, classes)
    for shift in (-1, 1):
        shifted = (predicted == case.y + shift).double().mean().item()
        if shifted - accuracy > 0.2 and _clear(shifted - accuracy, total) and shifted > after - 0.05:
            message = f"labels are off by one: accuracy {percent(accuracy)}, but {percent(shifted)} with y {shift:+d}"
            return Finding("labels", "error", message, f"y = y {'+' if shift > 0 else '-'} 1", {**data, "shift": shift})
    if after - before > 0.2 and _clear(after - before, total // 2):
        shown = permutation if classes <= 20 else {k: v for k, v in enumerate(permutation) if k != v}
        message = (
            f"classes are in another order: accuracy {percent(before)}, but {percent(after)} on samples not used to find "
            f"the order, when label k is class order[k] of the model: {shown}"
        )
        return Finding(
            "labels",
            "error",
            message,
            f"order = {permutation}; y = torch.tensor(order)[y]",
            {**data, "order": permutation},
        )
    if accuracy < chance + 2 * math.sqrt(chance * (1 - chance) / total):
        message = f"accuracy {percent(accuracy)} of {total} samples is near chance ({percent(chance)}), in any order of classes"
        remedy = (
            "model.load_state_dict(...)  # are trained weights loaded? is it the data set the model was trained on?"
        )
        return Finding("labels", "warning", message, remedy, data)
    return Finding(
        "labels", "ok", f"accuracy {percent(accuracy)} of {total} samples; no other order fits better", data=data
    )


def _clear(gain: float, count: int) -> bool:
    return gain > 4 / math.sqrt(max(count, 1))


def _best_permutation(predicted: Tensor, y: Tensor, classes: int) -> tuple[list[int], float, float]:
    """Return the order found on even samples, and the accuracy of odd samples before and after."""
    inside = (y >= 0) & (y < classes)
    # Every second sample of each class: data sets often repeat their classes in turn.
    by_class = torch.argsort(y[inside], stable=True)
    predicted, y = predicted[inside][by_class], y[inside][by_class]
    fit, judge, fit_y, judge_y = predicted[::2], predicted[1::2], y[::2], y[1::2]
    if not len(judge):
        return list(range(classes)), 0.0, 0.0
    confusion = torch.bincount(fit_y * classes + fit, minlength=classes * classes).view(classes, classes).double()
    # A hair in favour of the identity, so that classes never predicted stay where they are.
    confusion += 1e-3 * torch.eye(classes, dtype=torch.float64, device=confusion.device)
    _, columns = linear_sum_assignment(confusion.cpu().numpy(), maximize=True)
    order = torch.as_tensor(columns, device=y.device)
    before, after = (judge == judge_y).double().mean().item(), (judge == order[judge_y]).double().mean().item()
    return order.tolist(), before, after
