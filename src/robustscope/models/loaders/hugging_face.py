"""``hf:NAME-or-folder``: an image classifier of Hugging Face transformers."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustscope.core.errors import ModelError, missing_extra
from robustscope.models.sources import LOADERS, Source
from robustscope.models.weights import fit_weights, read_weights


class PixelLogits(nn.Module):
    """A transformers image classifier that maps pixels to the tensor of logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, K)."""
        return self.model(pixel_values=x).logits


@LOADERS.register(
    "hugging-face",
    version=1,
    source="Wolf et al., 2020, Transformers, EMNLP demos, arXiv:1910.03771",
    form="hf:NAME-OR-FOLDER (extra: hf)",
    prefix="hf",
    extra="hf",
)
def load_hugging_face(place: str, weights: str | None) -> Source:
    """Load an image classifier by its hub name or from a local folder.

    Weights are read from safetensors only, and code in the repository is never run. Mean and std come from
    ``preprocessor_config.json`` where there is one, and apply unless the user gives others. Images must already have
    the size that the model wants.

    Args:
        place: hub name or folder with ``config.json``.
        weights: local file of weights for this configuration, or None.

    Raises:
        MissingExtra: if transformers cannot be imported.
        ModelError: if the model cannot be found, downloaded or built.
    """
    try:
        transformers = import_module("transformers")
        classifiers = transformers.AutoModelForImageClassification
    except Exception as error:
        raise missing_extra("transformers", "hf", error) from error
    folder = Path(place).expanduser()
    where = str(folder) if folder.is_dir() else place
    try:
        if weights is None:
            model = classifiers.from_pretrained(where, use_safetensors=True, trust_remote_code=False)
        else:
            config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
            model = classifiers.from_config(config)
    except Exception as error:
        raise ModelError(
            f"transformers could not load {place!r} ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]})",
            "an image classifier with safetensors weights is allowed",
            "Check the name and the network, or give a local folder with config.json and model.safetensors.",
        ) from error
    remarks: tuple[str, ...] = ()
    if weights is not None:
        tensors, unwrapped = read_weights(weights)
        remarks = (*unwrapped, *fit_weights(model, tensors, Path(weights).name))
    mean, std, more = _normalisation(where)
    names = getattr(model.config, "id2label", None) or {}
    return Source(
        PixelLogits(model).eval(),
        folder.name if folder.is_dir() else place,
        mean=mean,
        std=std,
        class_names=tuple(str(names[k]) for k in sorted(names)) if names else None,
        description=model.config.to_json_string(use_diff=False),
        card={"architecture": type(model).__name__},
        remarks=(*remarks, *more),
    )


def _normalisation(where: str) -> tuple[Any, Any, tuple[str, ...]]:
    """Return mean and std of the preprocessor of a model, for inputs in [0, 1]; None where it states none."""
    try:
        processing = import_module("transformers.image_processing_base").ImageProcessingMixin
        facts, _ = processing.get_image_processor_dict(where)
    except Exception as error:
        return None, None, (f"no preprocessor_config.json could be read ({type(error).__name__}): no mean and std",)
    mean, std = facts.get("image_mean"), facts.get("image_std")
    if not facts.get("do_normalize", True) or not mean or not std:
        return None, None, ("preprocessor_config.json states no normalisation",)
    return tuple(mean), tuple(std), (f"mean {tuple(mean)} and std {tuple(std)} come from preprocessor_config.json",)
