"""Load a model from wherever it is, or wrap one that is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from robustscope.core.errors import InvalidType
from robustscope.core.types import Bounds
from robustscope.models import loaders as _loaders  # noqa: F401  (registers every model source)
from robustscope.models.classifier import Classifier
from robustscope.models.fingerprints import fingerprint
from robustscope.models.randomness import kept_randomness
from robustscope.models.sources import LOADERS, LoaderCard, Source, find_loader
from robustscope.models.weights import check_device, require_floats

__all__ = ["LOADERS", "LoadedModel", "LoaderCard", "Source", "fingerprint", "from_module", "load_model"]


@dataclass(frozen=True)
class LoadedModel:
    """A classifier and where it came from.

    Args:
        classifier: the door to the network.
        name: short display name.
        source: what the user wrote.
        fingerprint: SHA-256 of everything that decides what the model computes; see :func:`fingerprint`.
        card: facts from the source (dataset, licence, measured, published, ...); ``card["loading"]`` lists what was
            noticed while loading.
    """

    classifier: Classifier
    name: str
    source: str
    fingerprint: str
    card: Mapping[str, Any] = field(default_factory=dict)


def load_model(
    source: str,
    *,
    weights: str | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    bounds: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 256,
    allow_probabilities: bool = False,
    device: str = "cpu",
) -> LoadedModel:
    """Load a model, put it into evaluation mode, and wrap it in a :class:`Classifier`.

    Args:
        source: ``net.json``, ``net.safetensors``, ``file.py:make_model``, ``net.pt2``, ``net.onnx``, ``timm:NAME``,
            ``hf:NAME-OR-FOLDER`` or ``robustbench:NAME``.
        weights: file of weights to load into it (.safetensors, or a .pt file of tensors alone).
        mean, std: normalisation done before the network; they replace those of the source. To switch off what a source
            states, give mean=0 and std=1.
        bounds: valid range of the inputs before normalisation; the source's, else (0, 1).
        class_names: one name for each class.
        batch_size: most rows sent through the network at once.
        allow_probabilities: accept outputs that look like softmax probabilities.
        device: where the model goes.

    Raises:
        InvalidValue: if no source has that form, or an argument is not allowed.
        MissingFile, BadFile, UnsafeFile: if a file is absent, broken, or would run code when loaded.
        MissingExtra: if the source needs a package that cannot be imported.
        ModelError: if a Python file raises.
    """
    card, place = find_loader(source)
    where = check_device(device)
    with kept_randomness():
        found = card.function(place, None if weights is None else str(weights))
    require_floats(found.module, found.name)
    mean, std = _pair(mean, std)
    if mean is None and std is None:
        mean, std = found.mean, found.std
    facts = dict(found.card)
    if found.remarks:
        facts["loading"] = list(found.remarks)
    return _wrap(
        found.module.to(where),
        name=found.name,
        source=source if weights is None else f"{source} with {weights}",
        description=found.description,
        card=facts,
        mean=mean,
        std=std,
        bounds=bounds if bounds is not None else found.bounds,
        class_names=class_names if class_names is not None else found.class_names,
        batch_size=batch_size,
        allow_probabilities=allow_probabilities,
    )


def from_module(
    module: nn.Module,
    *,
    name: str = "model",
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    bounds: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    batch_size: int = 256,
    allow_probabilities: bool = False,
) -> LoadedModel:
    """Wrap a network that is in memory; it is neither moved nor changed, and must be in evaluation mode.

    Raises:
        InvalidType: if it is no torch module, or has quantised or integer weights.
        InvalidValue: as :class:`Classifier`.

    Example:
        >>> loaded = from_module(nn.Linear(4, 3).eval(), name="linear")
        >>> loaded.name, len(loaded.fingerprint)
        ('linear', 64)
    """
    if not isinstance(module, nn.Module):
        raise InvalidType(
            f"a {type(module).__name__} was given as the model",
            "a torch.nn.Module is allowed",
            "Pass the network itself, or a source such as 'net.json' to load_model.",
        )
    require_floats(module, name)
    mean, std = _pair(mean, std)
    return _wrap(
        module,
        name=name,
        source=f"module {type(module).__qualname__}",
        description="",
        card={},
        mean=mean,
        std=std,
        bounds=bounds,
        class_names=class_names,
        batch_size=batch_size,
        allow_probabilities=allow_probabilities,
    )


def _wrap(
    module: nn.Module,
    *,
    name: str,
    source: str,
    description: str,
    card: Mapping[str, Any],
    mean: Any,
    std: Any,
    bounds: Any,
    **options: Any,
) -> LoadedModel:
    names = options.pop("class_names")
    classifier = Classifier(
        module,
        bounds=Bounds.of(bounds) if bounds is not None else Bounds(0.0, 1.0),
        mean=mean,
        std=std,
        class_names=tuple(names) if names else None,
        **options,
    )
    mark = fingerprint(
        module, bounds=classifier.bounds, mean=classifier.mean, std=classifier.std, description=description
    )
    return LoadedModel(classifier, name, source, mark, card)


def _pair(mean: Any, std: Any) -> tuple[Any, Any]:
    """Single numbers become one value for all channels; mean 0 and std 1 stay, for they overrule the source."""
    mean, std = ((float(v),) if isinstance(v, (int, float)) else v for v in (mean, std))
    return mean, std
