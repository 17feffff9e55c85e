"""``robustscope universal``: craft one perturbation for many samples."""

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
    /,
    *,
    data: Annotated[str, Parameter(help="Data source, e.g. digits, mnist:FOLDER, cifar10:FILE.")],
    out_: Annotated[Path, Parameter(name="--out", help="File to write, e.g. delta.safetensors.")],
    threat: Annotated[str, Parameter(help="Threat model NORM:EPSILON with norm linf, l2 or l1.")] = DEFAULT_THREAT,
    samples: Annotated[
        str, Parameter(help="Crafting samples, as for `evaluate`; keep them apart from those evaluated later.")
    ] = "500",
    passes: Annotated[Whole, Parameter(help="Times that every sample is used.")] = 10,
    step_batch: Annotated[Whole, Parameter(help="Samples that share a step.")] = 64,
    relative_step_size: Annotated[float, Parameter(help="First step size as a fraction of epsilon.")] = 0.1,
    seed: Whole = Settings.seed,
    batch_size: Annotated[Whole, Parameter(help="Most rows sent through the model at once.")] = Settings.batch_size,
    threads: Whole = Settings.threads,
    device: str = Settings.device,
    model_options: Annotated[ModelOptions, FLAT] = ModelOptions(),
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Craft a universal perturbation: one for all inputs.

    The file keeps it with the fingerprints of model and data. Judge it on other samples, for example:
    `robustscope evaluate MODEL --data DATA --threat linf:8/255 --attack universal:perturbation=delta.safetensors`.
    """
    settings = Settings(samples=samples, seed=seed, batch_size=batch_size, threads=threads, device=device)
    spec = model_options.spec(model)
    if out_.is_dir():
        raise InvalidValue(f"--out={str(out_)!r} is a folder", "a file is allowed", "Write --out delta.safetensors.")
    import torch

    from robustscope.attacks.universal_craft import craft_universal, universal_bytes
    from robustscope.core.files import write_atomically
    from robustscope.core.types import ThreatModel
    from robustscope.data.selection import select
    from robustscope.runs.engines.local import torch_threads
    from robustscope.runs.plan import load_subjects

    subjects = load_subjects((spec,), data, settings)
    loaded, dataset = subjects.models[0], subjects.data
    ids = select(dataset, samples, seed)
    x, y = dataset.read(ids).to(device), torch.as_tensor(dataset.labels[ids], dtype=torch.int64, device=device)
    with torch_threads(threads), Bar(quiet or json) as bar:
        bar.show("universal", 0, len(ids) * passes)
        found = craft_universal(
            loaded.classifier,
            x,
            y,
            ThreatModel.parse(threat, loaded.classifier.bounds),
            seed=seed,
            passes=passes,
            batch_size=step_batch,
            relative_step_size=relative_step_size,
            advance=bar.advance,
        )
    origin = {"model": {"name": spec.name or loaded.name, "source": spec.source, "fingerprint": loaded.fingerprint}}
    origin["data"] = {"source": data, "fingerprint": dataset.fingerprint(ids), "selection": samples}
    found.facts.update(origin)
    write_atomically(out_, lambda part: part.write_bytes(universal_bytes(found)))
    facts = {"norm": found.norm, "epsilon": found.epsilon, "fooling_rate": found.fooling_rate}
    facts |= {"success_rate": found.success_rate, "out": str(out_), **found.facts}
    if json:
        emit(facts)
        return 0
    out.print(
        f"{found.norm} {found.epsilon:.6g}, crafted on {len(ids)} samples of {dataset.name}: changes "
        f"{100 * found.fooling_rate:.1f} % of their predictions, breaks {100 * found.success_rate:.1f} % of those that "
        "were correct",
        markup=False,
    )
    out.print(f"perturbation: {out_}", markup=False)
    return 0
