"""``robustscope cite``: BibTeX of the methods that a run used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustscope.core.errors import UnknownName, did_you_mean

OWN = """@software{robustscope,
  title = {robustscope: how robust is a neural network really},
  author = {{The robustscope developers}},
  year = {2026},
  version = {VERSION}
}"""


def command(
    what: Annotated[tuple[str, ...], Parameter(help="Run folders or names of methods.", show_default=False)] = (), /
) -> int:
    """Print BibTeX of the methods that a run used, or of the methods named."""
    from robustscope import __version__
    from robustscope.attacks import ATTACKS
    from robustscope.runs.store import read_plan

    names: list[str] = []
    for item in what:
        if (Path(item) / "plan.json").exists():
            names += [cell["attack"] for cell in read_plan(item)["cells"]]
        elif item in ATTACKS:
            names.append(item)
        else:
            raise UnknownName(
                f"{item!r} is neither a run folder nor a method",
                "",
                did_you_mean(item, (card.name for card in ATTACKS)),
            )
    entries = [OWN.replace("VERSION", __version__)]
    for name in dict.fromkeys(names):
        card = ATTACKS[name]
        entries.append(card.bibtex or f"% {name}: {card.source}")
    sys.stdout.write("\n\n".join(entries) + "\n")
    return 0
