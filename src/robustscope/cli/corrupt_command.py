"""``robustscope corrupt``: write a corrupted copy of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robustscope.cli.common import Bar, Json, Quiet, Whole, asked_workers, cores, emit, out

FEW_VALUES = 100_000_000
"""Values that one process corrupts before several have started."""


def command(
    data: Annotated[str, Parameter(help="Data source, e.g. folder:PATH or cifar10:FILE.", metavar="DATA")],
    out_: Annotated[Path, Parameter(help="Folder to write; the same command resumes it.", metavar="OUT")],
    /,
    *,
    suite: Annotated[
        tuple[str, ...],
        Parameter(
            help="Benchmark imagenet-c, imagenet-c-extra, tiny-imagenet-c, cifar10-c or mnist-c; or a corruption, which "
            "may be repeated. imagenet-c if left out.",
            show_default=False,
        ),
    ] = (),
    constants: Annotated[
        Literal["auto", "imagenet-c", "tiny-imagenet-c", "cifar-10-c", "mnist-c"] | None,
        Parameter(
            help="Benchmark whose constants are taken; by the suite's name and the size of the pictures if left out."
        ),
    ] = None,
    format: Annotated[
        Literal["png", "jpeg"],
        Parameter(help="png keeps every value; jpeg of quality 85 is what ImageNet-C was stored as."),
    ] = "png",
    rounding: Annotated[
        Literal["truncate", "nearest"], Parameter(help="How values come onto 256 levels; the benchmarks truncate.")
    ] = "truncate",
    samples: Annotated[str, Parameter(help="Which samples, as for `evaluate`.")] = "all",
    seed: Whole = 0,
    workers: Annotated[
        Whole | None, Parameter(help="Processes; as many as cores if left out. The files do not depend on it.")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Write a corrupted copy of a data set as folders of pictures: OUT/CORRUPTION/SEVERITY/CLASS/ID.png.

    Each folder OUT/CORRUPTION/SEVERITY is a data set: `robustscope evaluate MODEL --data folder:OUT/fog/3`. It holds a list
    for `sha256sum -c`; OUT/manifest.json says how all were made.
    """
    asked = asked_workers(workers) if workers is not None else None

    from robustscope.runs.corrupted import Request, Writer, write_corrupted

    wanted = Request(data, suite or ("imagenet-c",), constants, samples, seed, format, rounding)
    writer = Writer(wanted, out_)
    values = len(writer.parts) * len(writer.ids) * writer.data.read([0]).numel()
    processes = asked or (1 if values < FEW_VALUES else cores())
    with Bar(quiet or json) as bar:
        manifest = write_corrupted(
            writer, workers=processes, begin=lambda done, total: bar.show("corrupt", done, total), report=bar.advance
        )
    if json:
        emit({**manifest, "out": str(out_)})
        return 0
    parts = manifest["parts"]
    out.print(
        f"{manifest['count']:,} pictures of {manifest['name']} x {len(parts)} (corruption, severity), at the constants of "
        f"{manifest['constants']}",
        markup=False,
    )
    first = out_ / parts[0]["corruption"] / str(parts[0]["severity"])
    out.print(f"manifest: {out_ / 'manifest.json'}; a data set each, such as folder:{first}", markup=False)
    return 0
