"""``robustscope limits``: what the data themselves allow, whatever the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from robustscope.cli.common import Json, Whole, emit, numbers, out
from robustscope.core.errors import InvalidValue

MOST_CLOSE = 10


def command(
    data: Annotated[str, Parameter(help="Data source, as for `evaluate`.")],
    /,
    *,
    against: Annotated[
        str | None, Parameter(help="Search these data for the nearest other class, such as the training set.")
    ] = None,
    norm: Annotated[Literal["linf", "l2", "l1"], Parameter(help="Norm of the distances.")] = "linf",
    epsilons: Annotated[
        str | None, Parameter(help="Radii, e.g. 4/255,8/255; if left out, some at which the data begin to touch.")
    ] = None,
    classes: Annotated[str | None, Parameter(help="Only these classes, by number, e.g. 3,7.")] = None,
    samples: Annotated[
        str, Parameter(help="Which samples, as for `evaluate`; distances grow with the square.")
    ] = "2000",
    seed: Annotated[Whole, Parameter(help="Seed of the choice of samples.")] = 0,
    json: Json = False,
) -> int:
    """Say how robust any classifier could be on these samples: how far classes are apart, and what everyone must lose.

    Two samples of different classes that are at most twice epsilon apart cannot both be safe (Bhagoji et al. 2019). If no
    two are, some classifier is right on all balls (Yang et al. 2020). Both speak of these samples, not of the population.
    """
    from robustscope.limits.separation import separation
    from robustscope.limits.transport import transport_classes

    x, y, ids = _read(data, samples, seed, classes)
    pool = (None, None) if against is None else _read(against, "all", seed, classes)[:2]
    apart = separation(x, y, *pool, norm=norm)
    distances = apart.distance.sort().values
    wanted = numbers(epsilons, "--epsilons") or _default(distances.tolist())
    bound = transport_classes(x, y, norm=norm, epsilons=wanted)
    rows: list[dict[str, Any]] = [
        {"epsilon": radius, "separated": apart.separated(radius), "loss": float(bound.loss[i])}
        for i, radius in enumerate(wanted)
    ]
    order = apart.distance.argsort()[:MOST_CLOSE].tolist()
    close = [
        {"sample": ids[i], "class": int(y[i]), "distance": float(apart.distance[i]), "nearest": int(apart.neighbour[i])}
        for i in order
    ]
    found = {
        "norm": norm,
        "n": apart.n,
        "searched": apart.searched,
        "classes": len(bound.classes),
        "smallest": apart.smallest,
        "median": float(distances[len(distances) // 2]),
        "twins": len(apart.twins),
        "radii": rows,
        "closest": close,
    }
    if json:
        emit(found)
        return 0
    out.print(
        f"{apart.n:,} samples of {len(bound.classes)} classes, searched among {apart.searched:,}: the nearest sample of another "
        f"class is {norm} {apart.smallest:.4g} away at least, {found['median']:.4g} in the median",
        markup=False,
    )
    if len(apart.twins):
        out.print(f"{len(apart.twins)} pairs are equal and have different labels: nobody can be right on both")
    table = Table("epsilon", "samples more than 2 epsilon from other classes", "every classifier loses at least")
    for row in rows:
        table.add_row(f"{row['epsilon']:.6g}", f"{100 * row['separated']:.1f} %", f"{100 * row['loss']:.1f} %")
    out.print(table)
    out.print("True of these samples. Of the population they are drawn from it says little in many dimensions.")
    return 0


def _read(source: str, samples: str, seed: int, classes: str | None) -> tuple[Any, Any, list[int]]:
    """Return samples, labels and ids of a data source."""
    import torch

    from robustscope.data.datasets import load_data
    from robustscope.data.selection import select

    data = load_data(source)
    text = samples if not samples.isdecimal() or int(samples) < len(data) else "all"
    ids = list(select(data, text, seed))
    if classes is not None:
        known = [part.strip() for part in classes.split(",")]
        if not all(part.isdecimal() for part in known) or len(set(known)) < 2:
            raise InvalidValue(
                f"classes={classes!r} was given", "two or more numbers are allowed", "Write e.g. --classes 3,7."
            )
        ids = [i for i in ids if int(data.labels[i]) in {int(part) for part in known}]
    if not ids:
        raise InvalidValue(
            f"no sample of the classes {classes} was selected from {source}",
            "classes that occur are allowed",
            "Look at the labels, or select more samples.",
        )
    return data.read(ids), torch.as_tensor(data.labels[ids], dtype=torch.int64), ids


def _default(distances: list[float]) -> tuple[float, ...]:
    """Return radii at which something happens: half the distances at some shares of the samples."""
    finite = [d for d in distances if d != float("inf")]
    picked = {finite[min(int(share * len(finite)), len(finite) - 1)] / 2 for share in (0.0, 0.05, 0.25, 0.5)}
    return tuple(sorted(radius for radius in picked if radius > 0)) or (0.1,)
