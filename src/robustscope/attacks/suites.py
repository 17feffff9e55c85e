"""Named suites: attacks that are run one after the other, each on what the others left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustscope.attacks.cards import ATTACKS
from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean

Suite = tuple[tuple[str, Mapping[str, Any]], ...]

SUITES: dict[str, Suite] = {
    "noise": (("noise_uniform", {}), ("noise_gaussian", {})),
    "fast": (("noise_uniform", {}), ("fgsm", {}), ("pgd", {"steps": 10, "relative_step_size": 0.25})),
    "baseline": (
        ("noise_uniform", {}),
        ("noise_gaussian", {}),
        ("fgsm", {}),
        ("pgd", {"steps": 40, "loss": "cross_entropy"}),
        ("pgd", {"steps": 40, "loss": "margin"}),
    ),
    # The four attacks of AutoAttack's standard version, in its order (Croce & Hein 2020, arXiv:2003.01690, Sec. 5).
    "autoattack": (
        ("apgd", {"loss": "cross_entropy"}),
        ("apgd_targeted", {}),
        ("fab_targeted", {"stop_at_epsilon": True}),
        ("square", {}),
    ),
    # For black boxes. A suite leaves out what has no form for the norm: spsa and nes in l1, boundary in linf.
    "scores": (
        ("noise_uniform", {}),
        ("noise_gaussian", {}),
        ("nes", {"queries": 1000}),
        ("square", {}),
        ("spsa", {}),
    ),
    "decisions": (
        ("noise_uniform", {}),
        ("noise_gaussian", {}),
        ("hopskipjump", {"stop_at_epsilon": True}),
        ("boundary", {"stop_at_epsilon": True}),
    ),
}


def suite(name: str) -> Suite:
    """Return the suite ``name``; the name of an attack is the suite of that attack alone.

    Raises:
        UnknownName: for a name that is neither.
    """
    if name in SUITES:
        return SUITES[name]
    if name in ATTACKS:
        return ((name, {}),)
    raise UnknownName(f"the suite {name!r} is not known", "", did_you_mean(name, [*SUITES, *(c.name for c in ATTACKS)]))


def parse_attack(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``"pgd:steps=100,loss=margin"`` into a name and parameters; numbers and booleans are recognised.

    Raises:
        InvalidValue: if a part is not of the form key=value, or a key stands there twice.

    Example:
        >>> parse_attack("pgd:steps=100,loss=margin")
        ('pgd', {'steps': 100, 'loss': 'margin'})
    """
    name, _, rest = text.strip().partition(":")
    parameters: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, separator, value = part.partition("=")
        if not separator or not key.strip():
            raise InvalidValue(
                f"the part {part!r} of the attack {text!r} was given",
                "key=value is allowed",
                "Write e.g. pgd:steps=100,loss=margin.",
            )
        if key.strip() in parameters:
            raise InvalidValue(
                f"{key.strip()!r} was given twice in the attack {text!r}", "each key once is allowed", "Remove one."
            )
        parameters[key.strip()] = _literal(value.strip())
    return name, parameters


def _literal(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)
