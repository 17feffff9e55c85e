"""``robustscope claims``: published findings, tested on two cores or on the user's own data and networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from robustscope.cli.common import Json, Quiet, Whole, asked_workers, emit, err, model_spec, out, settings_of
from robustscope.core.errors import InvalidValue

if TYPE_CHECKING:
    from robustscope.claims import ClaimCard

command = App(
    name="claims",
    help="Test published findings about robustness: list them, run some, or run all and draw the atlas.",
    default_parameter=Parameter(negative=()),
)

GENERAL = "digits"
"""The data for which a claim's protocol for two cores has the user's put in."""
Out = Annotated[
    Path,
    Parameter(
        name="--out",
        help="Folder of networks and records, which all claims share; the same question is answered from there.",
    ),
]
Data = Annotated[str | None, Parameter(help="Your data source, without a split, e.g. cifar10:FOLDER.")]
RecipeName = Annotated[str | None, Parameter(help="Recipe of the networks that are trained: a name or a TOML file.")]
Full = Annotated[
    bool, Parameter(help="The full protocol, for your data and machine; needs --data.", show_default=False)
]
Again = Annotated[bool, Parameter(help="Test again what was found before.", show_default=False)]


@command.command(name="list")
def list_(*, json: Json = False) -> int:
    """List the claims: what was found, by whom, and what they need."""
    from robustscope.claims import CLAIMS

    if json:
        emit([_plain(card) for card in CLAIMS])
        return 0
    table = Table("claim", "topic", "needs", "finding")
    for card in CLAIMS:
        table.add_row(*map(Text, (card.name, card.topic, _needs(card), card.finding)))
    out.print(table)
    return 0


def _needs(card: ClaimCard) -> str:
    if not card.data:
        return "nothing"
    what = "training" if card.recipe else "data"
    return f"{what}, or models" if card.takes_models else what


def _plain(card: ClaimCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "topic": card.topic,
        "finding": card.finding,
        "hypothesis": card.hypothesis,
        "rules": [{"effect": rule.effect, "meaning": rule.meaning, "rule": rule.words()} for rule in card.rules],
        "needs": _needs(card),
        "parameters": card.resolve(),
        "full": dict(card.full),
        "source": card.source,
        "version": card.version,
    }


@command.command
def run(
    names: Annotated[tuple[str, ...], Parameter(help="Claims of `robustscope claims list`.", metavar="CLAIM")],
    /,
    *,
    out_: Out = Path("claims"),
    data: Data = None,
    recipe: RecipeName = None,
    models: Annotated[
        tuple[str, ...],
        Parameter(name="--model", help="SOURCE or NAME=SOURCE of a network of yours; repeatable.", show_default=False),
    ] = (),
    full: Full = False,
    set_: Annotated[
        tuple[str, ...],
        Parameter(name="--set", help="Parameter of the protocol, e.g. seeds=5; repeatable.", show_default=False),
    ] = (),
    seed: Whole = 0,
    device: str = "cpu",
    workers: Whole = 1,
    again: Again = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Test some claims and print their verdicts; exit code 1 if one could not be tested."""
    from robustscope.claims import CLAIMS

    if not names:
        raise InvalidValue("no claim was named", "names of `robustscope claims list` are allowed", "Name one or more.")
    specs = [model_spec(text) for text in models]
    named = tuple((spec.name or Path(spec.source.rpartition(":")[2]).stem, str(spec.source)) for spec in specs)
    asked = {"data": data, "recipe": recipe, "models": named, "seed": seed, "device": device, "full": full}
    chosen = [CLAIMS[name].name for name in names]
    failed = _run(chosen, out_, workers, quiet or json, parameters=settings_of(set_), again=again, **asked)
    return _present(chosen, out_, failed, json=json)


@command.command
def atlas(
    *,
    out_: Out = Path("claims"),
    data: Data = None,
    recipe: RecipeName = None,
    full: Full = False,
    seed: Whole = 0,
    device: str = "cpu",
    workers: Whole = 1,
    again: Again = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Test all claims and write one page of them; what was found before is kept, so that it can be interrupted.

    --data, --recipe and --full are for claims about data such as the digits; those with stimuli of their own, and closed
    forms, stay as they are.
    """
    from typing import get_args

    from robustscope.claims import CLAIMS
    from robustscope.claims.cards import Topic
    from robustscope.reports.atlas import write_atlas

    asked = {"data": data, "recipe": recipe, "seed": seed, "device": device, "full": full}
    general = [card.name for card in CLAIMS if card.data == GENERAL]
    particular = [card.name for card in CLAIMS if card.data != GENERAL]
    silent = quiet or json
    failed = _run(general, out_, workers, silent, again=again, **asked)
    failed |= _run(particular, out_, workers, silent, again=again, seed=seed, device=device)
    changed = {name: value for name, value in asked.items() if value not in (None, False, 0, "cpu")}
    words = " ".join(["robustscope claims atlas", *(f"--{name} {value}" for name, value in changed.items())])
    page = write_atlas(out_, get_args(Topic), failed, words.replace("--full True", "--full"))
    code = _present([card.name for card in CLAIMS], out_, failed, json=json)
    if not json:
        out.print(f"page: {page}", markup=False)
    return code


def _run(names: list[str], folder: Path, workers: int, silent: bool, **asked: Any) -> dict[str, str]:
    from robustscope.claims import run_claims

    many = asked_workers(workers) > 1
    if not (silent or many):
        asked["tell"] = lambda line: err.print(f"  {line}", style="dim", markup=False)

    def report(name: str, line: str) -> None:
        if not silent:
            err.print(f"{name}: {line}", markup=False)

    return run_claims(names, folder, workers=workers, report=report, **asked)


def _present(names: list[str], folder: Path, failed: dict[str, str], *, json: bool) -> int:
    """Print what was found about these claims; return the exit code."""
    from robustscope.reports.atlas import effect_rows, read_claims

    records = {record["claim"]: record for record in read_claims(folder)} if len(failed) < len(names) else {}
    found = [records[name] for name in names if name in records and name not in failed]
    if json:
        emit({"claims": found, "failed": failed})
        return int(bool(failed))
    table = Table("claim", "verdict", "effect", "size", "95 % interval", "supported")
    for record in found:
        for place, row in enumerate(effect_rows(record)):
            first = (record["claim"], record["verdict"]) if place == 0 else ("", "")
            table.add_row(*map(Text, (*first, row["effect"], row["value"], row["interval"], row["rule"])))
    out.print(table)
    return int(bool(failed))
