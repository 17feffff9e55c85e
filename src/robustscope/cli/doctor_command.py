"""``robustscope doctor``: is this model fed what it expects?"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from robustscope.cli.common import Json, Whole, bounds_pair, emit, numbers, out
from robustscope.cli.evaluate_command import ModelOptions

_STYLES = {"ok": "green", "warning": "yellow", "error": "red", "skipped": "dim"}


def command(
    model: Annotated[str, Parameter(help="Model source, as for `evaluate`.")],
    data: Annotated[str, Parameter(help="Data source, as for `evaluate`.")],
    /,
    *,
    samples: Annotated[Whole, Parameter(help="Samples to look at.")] = 256,
    seed: Annotated[Whole, Parameter(help="Seed of the choice of samples.")] = 0,
    model_options: Annotated[ModelOptions, Parameter(name="*")] = ModelOptions(),
    json: Json = False,
) -> int:
    """Examine how a model and data fit: range, normalisation, mode, outputs, labels, determinism, gradients.

    Exit code 1 if something is wrong enough that an evaluation would mislead.
    """
    from robustscope.data.datasets import load_data
    from robustscope.models.loading import load_model
    from robustscope.probes.doctor import examine

    loaded = load_model(
        model,
        weights=model_options.weights,
        mean=numbers(model_options.mean, "--mean"),
        std=numbers(model_options.std, "--std"),
        bounds=bounds_pair(model_options.bounds),
        allow_probabilities=True,
    )
    findings = examine(loaded, load_data(data), seed=seed, samples=samples)
    if json:
        emit([vars(finding) for finding in findings])
    else:
        for finding in findings:
            out.print(
                f"{finding.level:8} {finding.name}: {finding.message}", style=_STYLES[finding.level], markup=False
            )
            if finding.remedy:
                out.print(f"{'':8} -> {finding.remedy}", markup=False)
    return 1 if any(finding.level == "error" for finding in findings) else 0
