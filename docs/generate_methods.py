"""Write one page for each registered method into docs/methods, from its card and its docstring.

python docs/generate_methods.py          write the pages
python docs/generate_methods.py --check  exit with 1 if a page is missing, stale or left over
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from robustscope.attacks import ATTACKS, AttackCard
from robustscope.certify import CERTIFIERS
from robustscope.claims import CLAIMS, ClaimCard
from robustscope.claims.cards import Topic
from robustscope.contracts import checks_for
from robustscope.contracts.explained import sections
from robustscope.core.registry import Card, Registry
from robustscope.corruptions import CORRUPTIONS
from robustscope.estimates import ESTIMATES
from robustscope.limits import LIMITS
from robustscope.probes.why import WHY, WhyCard
from robustscope.training import OBJECTIVES, ObjectiveCard

FOLDER = Path(__file__).resolve().parent / "methods"
CLAIMS_PAGE = FOLDER.parent / "claims.md"
MARKS = "<!-- claims: written by docs/generate_methods.py -->\n", "<!-- end of claims -->"
_NOTE = "<!-- Written by docs/generate_methods.py from the card and docstring of the method. Edit those instead. -->"
KINDS: dict[str, Registry] = {
    "Attacks": ATTACKS,
    "Certifiers": CERTIFIERS,
    "Estimates of the robust radius": ESTIMATES,
    "Limits": LIMITS,
    "Corruptions": CORRUPTIONS,
    "Causes of robustness": WHY,
    "Training objectives": OBJECTIVES,
    "Claims": CLAIMS,
}
SAID = {
    "access": "Needs of the model",
    "norms": "Norms",
    "goals": "Goals",
    "sound": "A verified sample is",
    "layers": "Layers",
    "subject": "True of",
    "direction": "Direction",
    "quantity": "Quantity",
    "family": "Family",
    "constants": "Constants",
    "severities": "Severities",
    "inputs": "Inputs",
    "kind": "Kind",
    "topic": "Topic",
    "data": "Data",
    "recipe": "Recipe",
    "cause": "Networks differ in",
    "full_recipe": "Recipe of the full protocol",
}
"""Facts of cards that are shown as they are."""
_NAME = re.compile(r"^ {4}([a-z_][a-z_0-9]*(?:, [a-z_][a-z_0-9]*)*): (.*)$")


def flat(text: str) -> str:
    """Return a text on one line, with Sphinx roles and double back-ticks as Markdown code."""
    line = " ".join(text.split())
    line = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", line)
    return line.replace("``", "`")


def prose(text: str) -> str:
    """Return paragraphs of a docstring as Markdown, each on one line."""
    blocks = [escape(flat(block)) for block in re.split(r"\n\s*\n", text.strip()) if block.strip()]
    return "\n\n".join(block[0].upper() + block[1:] if block[1:2].islower() else block for block in blocks)


def escape(text: str) -> str:
    """Escape stars and underscores outside code: in docstrings they are multiplication and indices, never emphasis."""
    parts = text.split("`")
    return "`".join(re.sub(r"([*_])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts))


def arguments(text: str) -> dict[str, str]:
    """Return name -> meaning of an ``Args`` section."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        if match := _NAME.match(line):
            names = match[1].split(", ")
            found.update(dict.fromkeys(names, match[2]))
        elif line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def cell(text: str) -> str:
    """Return a text that can stand in a table."""
    return escape(flat(text)).replace("|", r"\|")


def known_as(card: Card) -> str:
    """Return the name of a method among methods of all kinds: an objective often has the name of its attack."""
    prefix = {ObjectiveCard: "train-", ClaimCard: "claim-"}.get(type(card), "")
    return f"{prefix}{card.name}"


def facts(card: Card) -> str:
    """Return what the card says, as a table."""
    rows = _of_attack(card) if isinstance(card, AttackCard) else _of_others(card)
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {cell(text)} |" for name, text in rows.items())])


def _of_others(card: Card) -> dict[str, str]:
    rows: dict[str, str] = {}
    for key, title in SAID.items():
        value = getattr(card, key, None)
        if value and not callable(value):
            rows[title] = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    if isinstance(card, ObjectiveCard):
        spent = card.passes(card.resolve())
        partial = f", {spent.partial} through the first layer alone" if spent.partial else ""
        rows["Cost with defaults"] = (
            f"{spent.forward} forward and {spent.backward} backward rows{partial} for each visit of a sample"
        )
    return {**rows, "Version": str(card.version), "Source": card.source}


def _of_attack(card: AttackCard) -> dict[str, str]:
    forward, backward = card.cost(card.resolve())
    rows = {
        "Needs of the model": card.access,
        "Aim": card.aim,
        "Norms" if card.norms else "Threat sets": ", ".join(card.kinds),
        "Goals": ", ".join(card.goals),
        "Random": "yes, from draws that belong to the samples" if card.stochastic else "no",
        "Cost with defaults": f"at most {forward} forward and {backward} backward rows for each sample",
        "Version": str(card.version),
        "Source": card.source,
        "Contract": f"{len(checks_for(card))} checks in each norm: `robustscope check {card.name}`",
    }
    if card.floor:
        rows["Noise floor"] = "yes: what anything called an attack must beat"
    return rows


def page(card: Card) -> str:
    """Return the page of one method."""
    parts = sections(inspect.getdoc(card.function) or "")
    meaning = arguments(parts.get("Args", ""))
    module = card.function.__module__.replace(".", "/")
    blocks = [f"# {card.name}", _NOTE, prose(parts[""]), facts(card), "## Parameters"]
    if card.parameters:
        rows = [
            f"| `{name}` | `{parameter.default!r}` | {cell(meaning.get(name, ''))} |"
            for name, parameter in card.parameters.items()
        ]
        blocks.append("\n".join(["| Name | Default | Meaning |", "| --- | --- | --- |", *rows]))
    else:
        blocks.append("None.")
    if isinstance(card, WhyCard):
        blocks += ["## What it returns", found(card)]
    if isinstance(card, ClaimCard):
        blocks[2:2] = [
            f"**Finding.** {escape(flat(card.finding))}",
            f"**Tested here.** {escape(flat(card.hypothesis))}",
        ]
        blocks += ["## Rules of the verdict", rules(card), "## Caveats", prose(card.caveats)]
    for title in ("Returns", "Departures"):
        if parts.get(title, "").strip():
            blocks += [f"## {title}", prose(parts[title])]
    if card.known_failures:
        rows = [f"- `{name}`: {escape(flat(reason))}." for name, reason in card.known_failures.items()]
        blocks += ["## Known failures of the contract", "\n".join(rows)]
    blocks += ["## Code and citation", f"[{module}.py](../../src/{module}.py); `robustscope cite {known_as(card)}`"]
    return "\n\n".join(blocks) + "\n"


def found(card: WhyCard) -> str:
    """Return the table of columns and figures of a probe of causes."""
    rows = [
        f"| `{name}` | {kind} | {cell(words)} | {card.robust.get(name, '')} | {', '.join(card.invariant.get(name, ()))} |"
        + f" {cell(card.gaps.get(name, ''))} |"
        for kind, known in (("sample", card.columns), ("model", card.figures))
        for name, words in known.items()
    ]
    head = ["| Name | Of each | Meaning | In robust models | Free of logits' | No number where |"]
    return "\n".join([*head, "| --- | --- | --- | --- | --- | --- |", *rows])


def rules(card: ClaimCard) -> str:
    """Return the table of a claim's rules."""
    rows = [f"| {cell(rule.effect)} | {cell(rule.meaning)} | {cell(rule.words())} |" for rule in card.rules]
    return "\n".join(["| Effect | Unit | Rule |", "| --- | --- | --- |", *rows])


def claims() -> str:
    """Return the list of all claims, by topic."""
    blocks = []
    for topic in dict.fromkeys(get_args(Topic)):
        rows = [
            f"| [{card.name}](methods/{known_as(card)}.md) | {cell(card.finding)} | {cell(card.source)} |"
            for card in CLAIMS
            if card.topic == topic
        ]
        if rows:
            head = ["| Claim | Finding | Source |", "| --- | --- | --- |"]
            blocks += [f"### {topic.capitalize()}", "\n".join([*head, *rows])]
    return "\n\n".join(blocks) + "\n"


def with_claims(text: str) -> str:
    """Return a page with the list of claims between its marks."""
    before, _, rest = text.partition(MARKS[0])
    return before + MARKS[0] + "\n" + claims() + "\n" + MARKS[1] + rest.partition(MARKS[1])[2]


def index() -> str:
    """Return the tables of all methods."""
    rows = [
        f"| [{card.name}]({card.name}.md) | {card.access} | {', '.join(card.kinds)} | {cell(card.summary())} |"
        for card in ATTACKS
    ]
    head = ["| Attack | Needs | Norms | What it does |", "| --- | --- | --- | --- |"]
    blocks = ["# Methods", _NOTE, "## Attacks", "\n".join([*head, *rows])]
    for title, registry in KINDS.items():
        if registry is not ATTACKS:
            rows = [f"| [{card.name}]({known_as(card)}.md) | {cell(card.summary())} |" for card in registry]
            blocks += [f"## {title}", "\n".join(["| Name | What it does |", "| --- | --- |", *rows])]
    return "\n\n".join(blocks) + "\n"


def pages() -> Mapping[str, str]:
    """Return file name -> content of every page."""
    cards = [card for registry in KINDS.values() for card in registry]
    return {"README.md": index(), **{f"{known_as(card)}.md": page(card) for card in cards}}


def stale(folder: Path = FOLDER) -> list[str]:
    """Return the names of pages that are missing, differ, or belong to no method."""
    wanted = pages()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    return sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))


def main(arguments: list[str]) -> int:
    """Write the pages, or check them."""
    if arguments == ["--check"]:
        names = stale()
        sys.stdout.write(f"stale: {', '.join(names)}\n" if names else "all pages are up to date\n")
        return 1 if names else 0
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    CLAIMS_PAGE.write_text(with_claims(CLAIMS_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"wrote {len(wanted)} pages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
