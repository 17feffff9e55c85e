"""What the commands share: options, progress, output."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robustscope.core.errors import InvalidValue
from robustscope.runs.config import Config, ModelSpec, Settings

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def whole(_: Any, tokens: Sequence[Any]) -> int:
    """Read a whole number; 1.5 is refused, where cyclopts would round it."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


Whole = Annotated[int, Parameter(converter=whole)]
Quiet = Annotated[bool, Parameter(help="Print results only, no progress.", show_default=False)]
Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON, and no progress.", show_default=False)]
Workers = Annotated[
    int | None,
    Parameter(
        converter=whole, help="Processes; as many as cores (and shards) if left out. The result does not depend on it."
    ),
]
Run = Annotated[Path, Parameter(help="Run folder, as --out of `evaluate` and `plan` names it.")]


def emit(data: Any) -> None:
    """Print JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False, default=str) + "\n")


def model_spec(text: str, **options: Any) -> ModelSpec:
    """Read "SOURCE" or "NAME=SOURCE"."""
    name, separator, source = text.partition("=")
    if separator and name and not set(name) & set("/:\\") and not Path(text).exists():
        return ModelSpec(source=source, name=name, **options)
    return ModelSpec(source=text, **options)


def numbers(text: str | None, what: str) -> tuple[float, ...] | None:
    """Read "0.1,0.2" or "none"; fractions such as 8/255 are allowed.

    Raises:
        InvalidValue: naming the option.
    """
    if text is None:
        return None
    if text.strip().lower() in ("", "none"):
        return ()
    try:
        return tuple(_number(part) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise InvalidValue(
            f"{what}={text!r} was given", "numbers separated by commas are allowed", "Write e.g. 0.5,1,2."
        ) from None


def _number(text: str) -> float:
    top, separator, bottom = text.partition("/")
    return float(top) / float(bottom) if separator else float(text)


def bounds_pair(text: str | None) -> tuple[float, float] | None:
    """Read --bounds "LOWER,UPPER".

    Raises:
        InvalidValue: for another form.
    """
    pair = numbers(text, "--bounds")
    if pair is not None and len(pair) != 2:
        raise InvalidValue(f"--bounds={text!r} was given", "LOWER,UPPER is allowed", "Write e.g. --bounds 0,1.")
    return pair


def build_config(
    models: Sequence[ModelSpec], data: str, threats: Sequence[str], attacks: Sequence[str], settings: Settings
) -> Config:
    """Build the configuration of a command line."""
    from robustscope.runs.plan import attack_specs

    return Config(tuple(models), data, tuple(threats), attack_specs(attacks), settings)


def settings_of(texts: Sequence[str], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read "key=value" or "table.key=value", each from --set; the value is TOML, or a bare text.

    Args:
        texts: as they were given, a later one overruling earlier ones.
        base: what they overrule.

    Raises:
        InvalidValue: for another form.
    """
    found = dict(base or {})
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InvalidValue(
                f"--set {text!r} was given", "KEY=VALUE is allowed", "Write e.g. --set learning_rate=0.05."
            )
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value.strip()
        *tables, key = name.strip().split(".")
        place = found
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = parsed
    return found


FEW_ROWS = 50_000


def worker_count(workers: int | None, plan: Mapping[str, Any]) -> int:
    """Return the number of processes: as asked, else one for each core, but no more than shards, and one for little work.

    Raises:
        InvalidValue: if fewer than one was asked for.
    """
    if workers is not None:
        return asked_workers(workers)
    if not str(plan["request"]["settings"]["device"]).startswith("cpu"):
        return 1
    if any("query_limit" in model for model in plan["models"]):  # processes cannot count together
        return 1
    if plan["cost"]["forward"] + plan["cost"]["backward"] < FEW_ROWS:  # starting a process costs seconds
        return 1
    return max(1, min(cores() // plan["threads"], len(plan["shards"])))


def asked_workers(workers: int) -> int:
    """Return the number of processes that was asked for.

    Raises:
        InvalidValue: if it is less than one.
    """
    if workers < 1:
        raise InvalidValue(f"--workers={workers} was given", "1 or more is allowed", "Write e.g. --workers 2.")
    return workers


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Bar:
    """A progress bar on the terminal's error stream: samples (or whatever is counted), rate, remaining time."""

    def __init__(self, quiet: bool, unit: str = "samples") -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
            disable=quiet,
        )
        self._task: Any = None

    def begin(self, plan: Mapping[str, Any], done: int, total: int) -> None:
        """Show the bar of a run; samples that are stored already count as done."""
        name = f"run {plan['id']}"
        last = plan["shards"][-1] if plan.get("shards") else {}
        if "measures" in last and "stage" in last:
            name = "probes: can it be trusted?"
        elif plan.get("stages"):
            name = f"{plan['stages'][-1]['kind']} of its survivors"
        self.show(name, done, total)

    def show(self, name: str, done: int, total: int) -> None:
        """Show the bar under a name."""
        self._progress.start()
        self._task = self._progress.add_task(name, total=total, completed=done, rate="")

    def advance(self, samples: int) -> None:
        """Move the bar on."""
        self._progress.advance(self._task, samples)
        task = next(task for task in self._progress.tasks if task.id == self._task)
        speed = task.finished_speed or task.speed
        self._progress.update(self._task, rate=f"{speed:.1f}/s" if speed else "")

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:  # a bar that never began would leave an empty line
            self._progress.stop()
