"""``robustscope evaluate``: plan, run, report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from robustscope.cli.common import (
    Bar,
    Json,
    Quiet,
    Whole,
    Workers,
    bounds_pair,
    build_config,
    emit,
    err,
    model_spec,
    numbers,
    out,
    worker_count,
)
from robustscope.core.errors import InvalidValue
from robustscope.runs.config import DEFAULT_THREAT, Config, ModelSpec, Settings, load_config

USAGE = """Usage: robustscope evaluate MODEL... --data DATA [OPTIONS]
       robustscope evaluate --config FILE.toml [OPTIONS]"""
FLAT = Parameter(name="*")
Models = Annotated[
    tuple[str, ...],
    Parameter(help="SOURCE or NAME=SOURCE, one or more.", metavar="MODEL", show_default=False),
]
Data = Annotated[str | None, Parameter(help="Data source, e.g. digits, mnist:FOLDER, cifar10:FILE.")]
Threats = Annotated[
    tuple[str, ...],
    Parameter(
        help="Threat model NORM:EPSILON, e.g. linf:8/255, l2:0.5 or linf:inf, or rotation-translation:DEGREES,PIXELS or "
        f"patch:HEIGHT,WIDTH; may be repeated. {DEFAULT_THREAT} if left out.",
        show_default=False,
    ),
]
Attacks = Annotated[
    tuple[str, ...],
    Parameter(
        help="Attack NAME or NAME:key=value,..., instead of a suite; may be repeated, and runs in that order.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None, Parameter(help="TOML file that says all of this instead; only --out, --workers and output stay.")
]


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What must be said about models whose source does not know it; applies to every model of the command.

    Args:
        weights: Weights to load into the model (.safetensors, or a weights-only .pt).
        mean: Per-channel mean that the model expects to be subtracted, e.g. 0.49,0.48,0.45; one value for all
            channels is enough. The source's own, if it knows it; 0 with --std 1 switches that off.
        std: Per-channel standard deviation, with --mean.
        bounds: Valid range of the inputs before normalisation. The source's own, else 0,1.
        allow_probabilities: Accept outputs that look like softmax probabilities.
        classes: List of the WordNet ids of the model's outputs in their order, one on each line: data or shifts of fewer
            classes, such as ImageNet-A and -R, are then judged among their own.
    """

    weights: str | None = None
    mean: str | None = None
    std: str | None = None
    bounds: str | None = None
    allow_probabilities: Annotated[bool, Parameter(show_default=False)] = False
    classes: str | None = None

    def spec(self, text: str) -> ModelSpec:
        """Return the model "SOURCE" or "NAME=SOURCE" with these options."""
        return model_spec(
            text,
            weights=self.weights,
            mean=numbers(self.mean, "--mean"),
            std=numbers(self.std, "--std"),
            bounds=bounds_pair(self.bounds),
            allow_probabilities=self.allow_probabilities,
            classes=self.classes,
        )


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How the evaluation is carried out.

    Args:
        samples: Which samples: all, a number (seeded random subset, stratified by class), a range such as 0:500, or
            ids:3,5,8. At most 1000 if left out.
        suite: Named suite, or the name of one attack; see `robustscope list`. The suite common is audited, with
            shifts and brackets.
        audit: Full AutoAttack on a random part of what the attacks left: the bound wanted on what it would still
            change, e.g. 1pp; or a budget, e.g. 100samples; or both, 1pp,100samples; or off. 2pp for the suite
            audited, off for others.
        trust: On how many samples the probes ask whether the robust accuracy can be believed, or off.
        certify: Certifier that looks at every sample, e.g. crown or ibp; or off. What is certified needs no audit.
        bracket: For how many samples to bracket the robust radius between a certified radius, an estimate and the
            nearest adversarial example, or off. 16 for the suite common, off for others.
        estimate: Estimate of the bracket, or off.
        shifts: Corruptions and other shifts, separated by commas: imagenet-c, imagenet-c-extra, cifar10-c, mnist-c or
            sequences imagenet-p or imagenet-p-extra, made here; single corruptions; folders of benchmarks on disk; or
            off. Left out, the suite common takes mnist-c or imagenet-c.
        reference: Whose errors mCE and mFR divide by: alexnet, or a model of this run.
        curve: Factors of epsilon at which accuracy is measured too, or none.
        seed: Seed of every random number.
        shard_size: Samples in a shard, the unit that is stored and resumed.
        batch_size: Most rows sent through the model at once.
        threads: Torch threads of each worker; part of the plan, for it changes the last bits of a result.
        device: Torch device, such as cpu or cuda.
        twin: Let attacks search on a faster twin of each model: folded, compiled, bfloat16 or float16. Each success
            is verified on the model itself.
    """

    samples: Annotated[str, Parameter(show_default=False)] = ""
    suite: str = Settings.suite
    audit: Annotated[str, Parameter(show_default=False)] = Settings.audit
    trust: str = str(Settings.trust)
    certify: Annotated[str, Parameter(show_default=False)] = Settings.certify
    bracket: Annotated[str, Parameter(show_default=False)] = str(Settings.bracket)
    estimate: str = Settings.estimate
    shifts: Annotated[str, Parameter(show_default=False)] = ""
    reference: Annotated[str, Parameter(show_default=False)] = Settings.reference
    curve: str = ",".join(f"{factor:g}" for factor in Settings.curve)
    seed: Whole = Settings.seed
    shard_size: Whole = Settings.shard_size
    batch_size: Whole = Settings.batch_size
    threads: Whole = Settings.threads
    device: str = Settings.device
    twin: str = Settings.twin

    def settings(self) -> Settings:
        """Return them as settings."""
        plain: dict[str, Any] = {**dataclasses.asdict(self), "curve": numbers(self.curve, "--curve")}
        return Settings(**plain)


def configure(
    models: tuple[str, ...],
    data: str | None,
    threat: tuple[str, ...],
    attack: tuple[str, ...],
    options: RunOptions,
    model_options: ModelOptions,
    config: Path | None,
) -> Config:
    """Return the configuration of a command line, or of the TOML file that it names.

    Raises:
        InvalidValue: if both or neither are given.
    """
    if config is not None:
        if models or data or threat or attack or options != RunOptions() or model_options != ModelOptions():
            raise InvalidValue(
                "both --config and other options were given",
                "one of them is allowed",
                "Put everything into the TOML file, or leave --config out.",
            )
        return load_config(config)
    if not models or not data:
        raise InvalidValue(
            f"{'no model' if not models else 'no --data'} was given",
            "MODEL... --data DATA, or --config FILE, is allowed",
            "Write e.g. robustscope evaluate net.json --data mnist:FOLDER --threat linf:0.1 --out RUN.",
        )
    specs = [model_options.spec(text) for text in models]
    return build_config(specs, data, threat or (DEFAULT_THREAT,), attack, options.settings())


def command(
    models: Models = (),
    /,
    *,
    data: Data = None,
    threat: Threats = (),
    attack: Attacks = (),
    out_: Annotated[
        Path | None, Parameter(name="--out", help="Run folder; named after the plan id if left out.")
    ] = None,
    config: ConfigFile = None,
    options: Annotated[RunOptions, FLAT] = RunOptions(),
    model_options: Annotated[ModelOptions, FLAT] = ModelOptions(),
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Evaluate the robustness of one or several models and write a report.

    MODEL is net.json (a card beside its safetensors), file.py:make_model, net.pt2, net.onnx, timm:NAME, hf:NAME or
    robustbench:NAME; `robustscope list` shows every form. For example:
    `robustscope evaluate net.json --data mnist:FOLDER --threat linf:0.1 --out RUN`.

    RUN then holds the record and report.html, report.md and report.json. Interrupted work is taken up by the same
    command, or by `robustscope run RUN`. Exit code 1 if an attack failed, or a shift, so that a figure had to be withheld.
    """
    asked = configure(models, data, threat, attack, options, model_options, config)
    from robustscope.runs.plan import load_subjects, make_plan
    from robustscope.runs.session import carry_out, check_folder, start

    if out_ is not None:
        check_folder(out_)
    if not quiet and not json:
        err.print("loading models and data, planning ...")
    subjects = load_subjects(asked.models, asked.data, asked.settings)
    plan = make_plan(asked, subjects)
    count = worker_count(workers, plan)
    folder = out_ or Path("runs") / plan["id"]
    start(plan, folder)
    if not quiet and not json:
        err.print(f"plan {plan['id']} in {folder}: {describe(plan)}; {count} worker(s)", markup=False)
    with Bar(quiet or json) as bar:
        carry_out(folder, workers=count, subjects=subjects if count == 1 else None, watcher=bar)
    return present(folder, json=json)


def describe(plan: dict) -> str:
    """Return a plan in one line."""
    samples = plan["data"]["n"]
    rows = plan["cost"]
    parts = sum(len(shift["parts"]) for shift in plan.get("shifts", ()))
    return (
        f"{len(plan['models'])} model(s) x {samples} samples of {plan['data']['name']} x {len(plan['cells'])} cells"
        f"{f' and {parts} shifts' if parts else ''} in {len(plan['shards'])} shard(s), at most {rows['forward']:,} rows forward and "
        f"{rows['backward']:,} backward"
    )


def present(folder: Path, *, json: bool) -> int:
    """Write the report of a finished run, print its headline, and return the exit code."""
    from robustscope.api import headline
    from robustscope.core.files import read_json
    from robustscope.reports import write_report

    written = write_report(folder)
    summary = read_json(written["json"])
    if json:
        emit(summary)
    else:
        out.print(headline(summary), markup=False)
        out.print(f"report: {written['html']}", markup=False)
    threats = [threat for model in summary["models"] for threat in model["threats"]]
    figures = [figure for threat in threats for figure in (threat["robust_accuracy"], *threat["certified"])]
    withheld = [told["reason"] for shift in summary["shifts"] for told in shift["models"]]
    return 1 if any(withheld) or any(figure["value"] is None for figure in figures) else 0
