"""``robustscope list``: what is registered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from robustscope.cli.common import Json, emit, out
from robustscope.core.registry import Card

_SHOWN = (
    "name",
    "form",
    "example",
    "norms",
    "access",
    "attacks",
    "family",
    "severities",
    "sound",
    "subject",
    "kind",
    "summary",
)


def _plain(card: Card, **facts: Any) -> dict[str, Any]:
    return {"name": card.name, **facts, "summary": card.summary(), "version": card.version, "source": card.source}


def command(
    kind: Annotated[
        Literal[
            "all",
            "attacks",
            "suites",
            "certifiers",
            "estimates",
            "probes",
            "limits",
            "corruptions",
            "objectives",
            "recipes",
            "architectures",
            "data",
            "models",
        ],
        Parameter(help="What to list."),
    ] = "all",
    /,
    *,
    json: Json = False,
) -> int:
    """List what there is: attacks, certifiers, probes, corruptions, objectives, recipes, sources of data and models, ...

    The tables are short; --json also says goals, aim, version and source of every method.
    """
    from robustscope.attacks import ATTACKS
    from robustscope.certify import CERTIFIERS
    from robustscope.corruptions import CORRUPTIONS
    from robustscope.data.datasets import SOURCES
    from robustscope.estimates import ESTIMATES
    from robustscope.limits import LIMITS
    from robustscope.models.loading import LOADERS
    from robustscope.models.zoo import ARCHITECTURES
    from robustscope.probes import PROBES
    from robustscope.runs.plan import known_suites
    from robustscope.training import OBJECTIVES, recipes

    listing = {
        "attacks": [
            {
                "name": card.name,
                "access": card.access,
                "aim": card.aim,
                "norms": list(card.kinds),
                "goals": list(card.goals),
                "version": card.version,
                "source": card.source,
                "summary": card.summary(),
            }
            for card in ATTACKS
        ],
        "suites": [{"name": name, "attacks": attacks} for name, attacks in known_suites().items()],
        "certifiers": [_plain(card, sound=card.sound, norms=list(card.norms)) for card in CERTIFIERS],
        "estimates": [_plain(card, norms=list(card.norms), goals=list(card.goals)) for card in ESTIMATES],
        "probes": [_plain(card, access=card.access, weight=card.weight, vital=card.vital) for card in PROBES],
        "limits": [_plain(card, subject=card.subject, quantity=card.quantity) for card in LIMITS],
        "corruptions": [
            _plain(
                card,
                family=card.family,
                severities=card.severities,
                constants=list(card.constants),
                stochastic=card.stochastic,
            )
            for card in CORRUPTIONS
        ],
        "objectives": [_plain(card, kind=card.kind, norms=list(card.norms)) for card in OBJECTIVES],
        "recipes": [
            {"name": name, "summary": path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")}
            for name, path in recipes().items()
        ],
        "architectures": [_plain(card) for card in ARCHITECTURES],
        "data": [
            {"name": card.name, "example": card.example, "summary": card.summary(), "source": card.source}
            for card in SOURCES
        ],
        "models": [
            {"name": card.name, "form": card.form, "summary": card.summary(), "source": card.source} for card in LOADERS
        ],
    }
    chosen: dict[str, list[dict[str, Any]]] = listing if kind == "all" else {kind: listing[kind]}
    if json:
        emit(chosen)
        return 0
    for title, rows in chosen.items():
        columns = [name for name in rows[0] if name in _SHOWN]
        table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD)
        for row in rows:
            cells = (", ".join(value) if isinstance(value, list) else str(value) for value in map(row.get, columns))
            table.add_row(*map(Text, cells))
        out.print(table)
    return 0
