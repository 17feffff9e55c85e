"""``robustscope train``: train a robust network as a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from robustscope.cli.common import Bar, Json, Quiet, Whole, emit, err, out, settings_of

if TYPE_CHECKING:
    from robustscope.training import Recipe, Trained

USAGE = """Usage: robustscope train RECIPE --data DATA --out FOLDER [OPTIONS]
       robustscope train --objective NAME --model NAME --data DATA --out FOLDER [OPTIONS]"""


def command(
    recipe: Annotated[
        str | None,
        Parameter(help="Recipe of the package, see `robustscope list recipes`, or a TOML file.", metavar="RECIPE"),
    ] = None,
    /,
    *,
    out_: Annotated[Path, Parameter(name="--out", help="Run folder; the same command goes on with what lies there.")],
    data: Annotated[str | None, Parameter(help="Training set, e.g. digits#train or cifar10:FOLDER#train.")] = None,
    objective: Annotated[str | None, Parameter(help="Objective; see `robustscope list objectives`.")] = None,
    model: Annotated[
        str | None,
        Parameter(help="Architecture, see `robustscope list architectures`, or a card net.json to start from."),
    ] = None,
    threat: Annotated[str | None, Parameter(help="Threat model to train against, e.g. linf:8/255.")] = None,
    epsilon: Annotated[str | None, Parameter(help="Radius alone, in the norm of the recipe, e.g. 8/255.")] = None,
    epochs: Whole | None = None,
    seed: Whole | None = None,
    device: str | None = None,
    set_: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            help="Any key of the recipe, e.g. learning_rate=0.05 or parameters.steps=7; repeatable.",
            show_default=False,
        ),
    ] = (),
    tracker: Annotated[
        tuple[str, ...], Parameter(help="Log also to tensorboard, mlflow or wandb; repeatable.", show_default=False)
    ] = (),
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Train a robust network, and write it as a model that `robustscope evaluate` takes as it is.

    FOLDER then holds model.json and model.safetensors, recipe.json with all defaults filled in, history.csv, report.html and
    the checkpoint. Accuracies on the way are those of held-out samples under a short PGD: they watch the training;
    `robustscope evaluate` gives the verdict. Exit code 1 if it was stopped by catastrophic overfitting.
    """
    from robustscope.core.forms import build
    from robustscope.training import Recipe, load_recipe, train
    from robustscope.training.distributed import joined, rank
    from robustscope.training.trackers import open_tracker

    given = {"data": data, "objective": objective, "model": model, "threat": threat, "epochs": epochs, "seed": seed}
    changes = settings_of(set_, {key: value for key, value in {**given, "device": device}.items() if value is not None})
    base = load_recipe(recipe, **changes) if recipe is not None else build(Recipe, changes, "")
    if epsilon is not None:
        base = _with_epsilon(base, epsilon)
    from robustscope.core.forms import to_dict

    facts = to_dict(base)
    with joined(base.device), Bar(quiet or json or rank() > 0, "updates") as bar:
        speak = not (quiet or json) and rank() == 0
        trackers = [open_tracker(name, out_, facts) for name in tracker] if rank() == 0 else []
        shown = [0]

        def progress(done: int, total: int) -> None:
            if not shown[0]:
                bar.show(f"{base.objective} on {base.data}", done - 1, total)
            bar.advance(done - (shown[0] or done - 1))
            shown[0] = done

        trained = train(base, out_, trackers=[*trackers, *([tell] if speak else [])], progress=progress)
        if rank():
            return 0
    return present(base, trained, out_, json=json)


def _with_epsilon(recipe: Recipe, epsilon: str) -> Recipe:
    import dataclasses

    return dataclasses.replace(recipe, threat=f"{recipe.threat.partition(':')[0]}:{epsilon}")


def tell(row: Any) -> None:
    """Print a row of the history above the bar."""
    if "loss" not in row:
        err.print(row["remark"], style="yellow", markup=False)
        return
    err.print(
        f"epoch {row['epoch']:>3}  loss {row['loss']:.4f}  clean {100 * row['clean']:5.1f} %  robust "
        f"{100 * row['robust']:5.1f} %  {row['seconds']:.1f} s  {row['backward']:,} rows backward",
        markup=False,
    )
    if row["remark"]:
        err.print(row["remark"], style="yellow", markup=False)


def present(recipe: Recipe, trained: Trained, folder: Path, *, json: bool) -> int:
    """Print what came out; return the exit code."""
    from robustscope.reports.training import write_training_report

    page = write_training_report(folder)
    bad = trained.stopped.startswith("catastrophic")
    if json:
        emit(
            {
                "model": str(trained.card),
                "best": trained.best,
                "passes": vars(trained.passes),
                "stopped": trained.stopped,
                "report": str(page),
            }
        )
        return int(bad)
    best = trained.best
    if trained.stopped:
        out.print(f"stopped: {trained.stopped}", markup=False)
    if best:
        out.print(
            f"weights of epoch {best['epoch']}: held-out accuracy {100 * best['clean']:.1f} % clean, "
            f"{100 * best['robust']:.1f} % under PGD-{recipe.validation_steps}",
            markup=False,
        )
    passes = trained.passes
    out.print(f"cost: {passes.forward:,} rows forward, {passes.backward:,} backward", markup=False)
    out.print(f"report: {page}", markup=False)
    out.print(f"verdict: robustscope evaluate {trained.card} --data TEST-SET --threat {recipe.threat}", markup=False)
    return int(bad)
