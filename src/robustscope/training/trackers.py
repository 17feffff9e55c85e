"""Where the history goes besides its own file: TensorBoard, MLflow, Weights & Biases, each an extra, through one hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from robustscope.core.errors import InvalidValue, did_you_mean, missing_extra

Row = Mapping[str, Any]
Tracker = Callable[[Row], None]


def figures(row: Row) -> dict[str, float]:
    """Return the numbers of a row of the history; what is no number stays out."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in ("epoch", "attempt")
    }


def tensorboard(folder: Path, recipe: Mapping[str, Any]) -> Tracker:
    """Write event files into FOLDER/tensorboard.

    Raises:
        MissingExtra: without the package ``tensorboard``.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except Exception as error:
        raise missing_extra("tensorboard", "tensorboard", error) from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def track(row: Row) -> None:
        for name, value in figures(row).items():
            writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    return track


def mlflow(folder: Path, recipe: Mapping[str, Any]) -> Tracker:
    """Log to MLflow, wherever its own settings point.

    Raises:
        MissingExtra: without the package ``mlflow``.
    """
    try:
        package = import_module("mlflow")
    except Exception as error:
        raise missing_extra("mlflow", "mlflow", error) from error
    if package.active_run() is None:
        package.start_run(run_name=folder.name)
    package.log_params({name: str(value)[:250] for name, value in recipe.items()})
    return lambda row: package.log_metrics(figures(row), step=int(row["epoch"]))


def wandb(folder: Path, recipe: Mapping[str, Any]) -> Tracker:
    """Log to Weights & Biases, as its own settings say.

    Raises:
        MissingExtra: without the package ``wandb``.
    """
    try:
        package = import_module("wandb")
    except Exception as error:
        raise missing_extra("wandb", "wandb", error) from error
    run = package.run or package.init(name=folder.name, dir=str(folder), config=dict(recipe))
    return lambda row: run.log(figures(row), step=int(row["epoch"]))


TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
    "wandb": wandb,
}


def open_tracker(name: str, folder: Path, recipe: Mapping[str, Any]) -> Tracker:
    """Return the tracker of that name.

    Raises:
        InvalidValue: if there is none.
        MissingExtra: if its package is not installed.
    """
    if name not in TRACKERS:
        raise InvalidValue(
            f"the tracker {name!r} was given", f"one of {tuple(TRACKERS)} is allowed", did_you_mean(name, TRACKERS)
        )
    return TRACKERS[name](folder, recipe)
