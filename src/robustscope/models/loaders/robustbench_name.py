"""``robustbench:NAME[,dataset[,threat]]``: a model of the RobustBench model zoo."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from robustscope.core.errors import InvalidValue, ModelError, UnknownName, did_you_mean, missing_extra
from robustscope.models.sources import LOADERS, Source
from robustscope.models.weights import fit_weights, read_weights


@LOADERS.register(
    "robustbench",
    version=1,
    source="Croce et al., 2021, RobustBench, NeurIPS Datasets and Benchmarks, arXiv:2010.09670",
    form="robustbench:NAME[,DATASET[,THREAT]] (extra: robustbench)",
    prefix="robustbench",
    extra="robustbench",
)
def load_robustbench(place: str, weights: str | None) -> Source:
    """Load a RobustBench model; it takes inputs in [0, 1] and normalises them itself.

    Args:
        place: name, then dataset ("cifar10") and threat model ("Linf"), with commas.
        weights: local checkpoint for this entry, or None to download it.

    Raises:
        MissingExtra: if robustbench cannot be imported.
        UnknownName: if the zoo has no such dataset, threat model or name.
        ModelError: if the checkpoint cannot be downloaded or loaded.
    """
    parts = [part.strip() for part in place.split(",")]
    if not parts[0] or len(parts) > 3:
        raise InvalidValue(
            f"robustbench:{place} was given",
            "robustbench:NAME[,DATASET[,THREAT]] is allowed",
            "Write e.g. robustbench:Standard,cifar10,Linf.",
        )
    name, dataset, threat = (*parts, *("cifar10", "Linf")[len(parts) - 1 :])
    try:
        zoo, enums = import_module("robustbench.model_zoo"), import_module("robustbench.model_zoo.enums")
        load_model = import_module("robustbench.utils").load_model
    except Exception as error:
        raise missing_extra("robustbench", "robustbench", error) from error
    models = _pick(
        _pick(zoo.model_dicts, enums.BenchmarkDataset, dataset, "dataset"), enums.ThreatModel, threat, "threat model"
    )
    if name not in models:
        raise UnknownName(f"RobustBench has no model {name!r} for {dataset}, {threat}", "", did_you_mean(name, models))
    try:
        module = models[name]["model"]() if weights else load_model(name, dataset=dataset, threat_model=threat)
    except Exception as error:
        raise ModelError(
            f"RobustBench could not load {place!r} ({type(error).__name__}: {error})",
            "a model whose checkpoint can be downloaded is allowed",
            "Check the network, or download the checkpoint and give weights='file.pt'.",
        ) from error
    remarks: tuple[str, ...] = ()
    if weights is not None:
        tensors, unwrapped = read_weights(weights)
        remarks = (*unwrapped, *fit_weights(module, tensors, Path(weights).name))
    return Source(module.eval(), name, card={"dataset": dataset, "threat": threat}, remarks=remarks)


def _pick(table: Any, kind: Any, text: str, what: str) -> Any:
    try:
        return table[kind(text)]
    except (KeyError, ValueError):
        raise UnknownName(
            f"RobustBench has no {what} {text!r}", "", did_you_mean(text, [key.value for key in table])
        ) from None
