"""``robustscope cite``: BibTeX of the methods that a run used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustscope.core.errors import UnknownName, did_you_mean
from robustscope.core.registry import Card

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
    from robustscope.certify import CERTIFIERS
    from robustscope.claims import CLAIMS
    from robustscope.corruptions import CORRUPTIONS
    from robustscope.corruptions.sequences import SEQUENCES
    from robustscope.estimates import ESTIMATES
    from robustscope.limits import LIMITS
    from robustscope.probes import PROBES
    from robustscope.probes.why import WHY
    from robustscope.runs.store import read_plan
    from robustscope.training import OBJECTIVES

    registries = (PROBES, WHY, SEQUENCES, CORRUPTIONS, LIMITS, ESTIMATES, CERTIFIERS, ATTACKS)
    known: dict[str, Card] = {card.name: card for registry in registries for card in registry}
    known |= {f"train-{card.name}": card for card in OBJECTIVES} | {f"claim-{card.name}": card for card in CLAIMS}
    names: list[str] = []
    sources: dict[str, None] = {}
    for item in what:
        if (Path(item) / "plan.json").exists():
            plan = read_plan(item)
            names += [cell["attack"] for cell in plan["cells"]]
            probed = [m["source"] for m in plan.get("measures", ()) if m["kind"] == "trust"]
            names += [m["method"] for m in plan.get("measures", ()) if m["kind"] != "trust"]
            names += [name for s in plan.get("shifts", ()) if "versions" in s for name in s["versions"]]
            sources |= {f"% trust: {source}": None for source in probed}
        elif item in known:
            names.append(item)
        else:
            raise UnknownName(f"{item!r} is neither a run folder nor a method", "", did_you_mean(item, known))
    entries = [OWN.replace("VERSION", __version__)]
    for name in dict.fromkeys(names):
        card = known[name]
        entries.append(card.bibtex or f"% {name}: {card.source}")
    sys.stdout.write("\n\n".join([*entries, *sources]) + "\n")
    return 0
