"""``timm:NAME``: a model of PyTorch Image Models."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from robustscope.core.errors import ModelError, UnknownName, did_you_mean, missing_extra
from robustscope.models.sources import LOADERS, Source
from robustscope.models.weights import fit_weights, read_weights


@LOADERS.register(
    "timm",
    version=1,
    source="Wightman, 2019, PyTorch Image Models, doi:10.5281/zenodo.4414861",
    form="timm:NAME (extra: vision)",
    prefix="timm",
    extra="vision",
)
def load_timm(place: str, weights: str | None) -> Source:
    """Create a timm model, with its published weights or with a local file.

    Mean and std come from the model's own configuration and apply unless the user gives others.

    Args:
        place: name of the model, such as "resnet18.a1_in1k".
        weights: local file of weights, or None to download the published ones.

    Raises:
        MissingExtra: if timm cannot be imported; it needs a sound torchvision.
        UnknownName: if timm has no such model.
        ModelError: if the weights cannot be downloaded.
    """
    try:
        timm = import_module("timm")
    except Exception as error:
        raise missing_extra("timm", "vision", error) from error
    architecture = place.split(".", 1)[0]
    if not timm.is_model(architecture) and not architecture.startswith(("hf-hub:", "hf_hub:")):
        known = timm.list_models()
        raise UnknownName(
            f"timm has no model {place!r}",
            "",
            did_you_mean(architecture, known).split("Available:")[0] + f"timm.list_models() lists all {len(known)}.",
        )
    try:
        module = timm.create_model(place, pretrained=weights is None)
    except Exception as error:
        raise ModelError(
            f"timm could not create {place!r} ({type(error).__name__}: {str(error).splitlines()[0][:160]})",
            "a model whose weights can be downloaded is allowed",
            "Check the network, or download the weights and give weights='file.safetensors'.",
        ) from error
    remarks: tuple[str, ...] = ()
    if weights is not None:
        tensors, unwrapped = read_weights(weights)
        remarks = (*unwrapped, *fit_weights(module, tensors, Path(weights).name))
    facts = dict(module.pretrained_cfg or {})
    mean, std = facts.get("mean"), facts.get("std")
    if mean and std:
        remarks = (*remarks, f"mean {tuple(mean)} and std {tuple(std)} come from timm's configuration of {place}")
    kept = {key: facts[key] for key in ("architecture", "tag", "license", "input_size", "num_classes") if key in facts}
    return Source(module.eval(), place, mean=mean, std=std, card=kept, remarks=remarks)
