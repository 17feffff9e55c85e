"""What every public door asks of its arguments before anything runs: one wording, one order, for all methods.

A method has two questions between these: whether it is defined for the threat set, and whether its hyper-parameters fit.
Hence three functions and not one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.threats import Patch, RotationTranslation, Threat, parse_threat
from robustscope.core.types import ThreatModel
from robustscope.models.classifier import Classifier

SETS: tuple[type, ...] = (ThreatModel, RotationTranslation, Patch)
"""All kinds of threat sets."""


def check_type(what: str, value: Any, wanted: type | tuple[type, ...], remedy: str) -> None:
    """Refuse an argument of another type.

    Raises:
        InvalidType: naming what is allowed.
    """
    if not isinstance(value, wanted):
        names = " or ".join(kind.__name__ for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))
        raise InvalidType(f"{what} of type {type(value).__name__} was given", f"{names} is allowed", remedy)


def check_subject(model: Classifier, threat: Threat | str, kinds: tuple[type, ...] = (ThreatModel,)) -> Any:
    """Check that a classifier and a threat set belong together; return the threat set, read if it is a text.

    Args:
        model: must be a classifier.
        threat: a threat set, or a text such as "linf:8/255" in the bounds of the model.
        kinds: of threat sets that the door lets in.

    Raises:
        InvalidType: for anything else than a classifier and such a threat set.
        InvalidValue: if their bounds differ, and for a text that is no threat set.

    Example:
        >>> model = Classifier(torch.nn.Linear(4, 3).eval())
        >>> check_subject(model, "linf:0.5").epsilon
        0.5
    """
    check_type("model", model, Classifier, "Wrap the network: Classifier(module.eval()).")
    example = "Write e.g. 'linf:8/255' or ThreatModel('linf', 0.1)."
    check_type("threat", threat, (*kinds, str), example)
    parsed = parse_threat(threat, model.bounds) if isinstance(threat, str) else threat
    check_type("threat", parsed, kinds, example)
    if parsed.bounds != model.bounds:
        raise InvalidValue(
            f"the threat model has bounds {tuple(parsed.bounds)} and the classifier {tuple(model.bounds)}",
            "equal bounds are allowed",
            "Build both with the valid range of the inputs.",
        )
    return parsed


def check_samples(model: Classifier, x: Tensor, y: Tensor, threat: Threat, targets: Tensor | None = None) -> None:
    """Check inputs, labels and targets, one of each for a sample, and one radius for all or for each.

    Args:
        model: the classifier.
        x: (B, *S), inside the bounds.
        y: int64 (B,), classes of the model.
        threat: one radius, or B of them.
        targets: int64 (B,), classes of the model, or None.

    Raises:
        InvalidType: for inputs that are not floating point, and classes that are not int64.
        InvalidValue: for other shapes or lengths, inputs out of bounds, and classes that the model does not have.
    """
    model.check_inputs(x, y)
    threat.radius(x)
    _check_classes(model, x, "labels", y)
    if targets is not None:
        _check_classes(model, x, "targets", targets)


def check_draws(draws: Draws | None, seed: int, x: Tensor, scope: str) -> Draws:
    """Return the random numbers of a call, in the scope of its method: those given, or numbers for samples 0 to B - 1.

    Raises:
        InvalidType: for anything else than draws or None.
        InvalidValue: for draws of another number of samples.
    """
    remedy = "Leave them out and say seed=, or write Draws(seed, sample_ids)."
    check_type("draws", draws, (Draws, type(None)), remedy)
    draws = (draws or Draws(seed, tuple(range(len(x))))).within(scope)
    if len(draws.ids) != len(x):
        raise InvalidValue(
            f"draws of {len(draws.ids)} samples were given for {len(x)} inputs",
            "one sample id for each input is allowed",
            "Select the draws of these samples: draws.select(rows).",
        )
    return draws


def _check_classes(model: Classifier, x: Tensor, name: str, classes: Tensor) -> None:
    if not isinstance(classes, Tensor) or classes.dtype != torch.int64:
        given = classes.dtype if isinstance(classes, Tensor) else type(classes).__name__
        raise InvalidType(f"{name} of type {given} were given", "int64 is allowed", f"Write {name}.long().")
    if classes.shape != x.shape[:1]:
        raise InvalidValue(
            f"{name} of shape {tuple(classes.shape)} were given for {len(x)} inputs",
            f"shape ({len(x)},) is allowed",
            "Give one class index for each input.",
        )
    if not len(x):
        return
    known, low, high = model.classes(x), int(classes.min()), int(classes.max())
    if low < 0 or high >= known:
        raise InvalidValue(
            f"{name} from {low} to {high} were given",
            f"0 to {known - 1} are allowed for a model of {known} classes",
            "Number the classes from 0 in the model's order.",
        )
