"""``robustscope masks``: a classifier with and without foreground masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustscope.cli.common import Bar, Json, Quiet, Whole, emit, out
from robustscope.cli.evaluate_command import FLAT, ModelOptions
from robustscope.core.errors import InvalidValue
from robustscope.runs.config import DEFAULT_THREAT, Settings


def command(
    model: Annotated[str, Parameter(help="SOURCE or NAME=SOURCE.", metavar="MODEL")],
    masks: Annotated[
        str, Parameter(help="png:FOLDER, npy:FILE, coco:FILE?category=NAME or gtsrb:PATH.", metavar="MASKS")
    ],
    /,
    *,
    data: Annotated[str, Parameter(help="Data source, as for `evaluate`.")],
    threat: Annotated[str, Parameter(help="Threat model NORM:EPSILON.")] = DEFAULT_THREAT,
    attack: Annotated[str, Parameter(help="Attack NAME or NAME:key=value,...")] = "pgd:steps=40,loss=margin",
    kinds: Annotated[
        str,
        Parameter(
            help="Comma-separated: none, foreground, dilated, random, shifted, foreground attacked, saliency, saliency attacked."
        ),
    ] = "none,foreground,foreground attacked,dilated,random",
    dilation: Annotated[Whole, Parameter(help="Pixels by which the kind dilated grows.")] = 2,
    share: Annotated[float, Parameter(help="Share of the pixels, for the saliency kinds.")] = 0.25,
    samples: Annotated[str, Parameter(help="Which samples, as for `evaluate`.")] = "1000",
    out_: Annotated[Path, Parameter(name="--out", help="Folder to write masks.md and masks.csv to.")] = Path("masks"),
    seed: Whole = Settings.seed,
    batch_size: Annotated[Whole, Parameter(help="Most rows sent through the model at once.")] = Settings.batch_size,
    threads: Whole = Settings.threads,
    device: str = Settings.device,
    model_options: Annotated[ModelOptions, FLAT] = ModelOptions(),
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Attack a classifier behind foreground masks and without, with the controls that a gain must be compared with.

    OUT then holds the table, masks.md, and a row for each kind and sample, masks.csv. For example:
    `robustscope masks net.json coco:instances.json --data folder:crops --threat linf:8/255`.
    """
    if dilation < 0:
        raise InvalidValue(f"--dilation={dilation} was given", "0 or more is allowed", "Write e.g. --dilation 2.")
    settings = Settings(samples=samples, seed=seed, batch_size=batch_size, threads=threads, device=device)
    from robustscope.analyses.masks import mask_summary
    from robustscope.core.files import write_text
    from robustscope.core.threads import torch_threads
    from robustscope.data.masks import load_masks
    from robustscope.data.selection import select
    from robustscope.reports.formats import native
    from robustscope.reports.masks import render_masks
    from robustscope.runs.masks import evaluate_masked_data
    from robustscope.runs.plan import attack_specs, load_subjects

    (method,) = attack_specs([attack])
    subjects = load_subjects((model_options.spec(model),), data, settings)
    loaded, dataset = subjects.models[0], subjects.data
    found, ids = load_masks(masks, dataset), select(dataset, samples, seed)
    with torch_threads(threads), Bar(quiet or json) as bar:
        bar.show("masks", 0, len(ids))
        table = evaluate_masked_data(
            loaded.classifier,
            dataset,
            found,
            ids,
            threat,
            seed=seed,
            device=device,
            report=bar.advance,
            kinds=[kind.strip() for kind in kinds.split(",")],
            method=(method.name, method.parameters),
            dilation=dilation,
            share=share,
        )
    summary = mask_summary(table)
    page = render_masks(summary, f"{loaded.name} on {dataset.name}, {threat}, {attack}")
    write_text(out_ / "masks.md", page)
    write_text(out_ / "masks.csv", table.to_csv(index=False))
    if json:
        emit({"kinds": native(summary), "out": str(out_)})
    else:
        out.print(page, markup=False)
        out.print(f"rows: {out_ / 'masks.csv'}", markup=False)
    return 0
