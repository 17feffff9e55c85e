"""Named suites: attacks that are run one after the other, each on what the others left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from robustscope.attacks.cards import ATTACKS
from robustscope.core.errors import InvalidValue, UnknownName, did_you_mean
from robustscope.geometry.losses import LOSSES

Suite = tuple[tuple[str, Mapping[str, Any]], ...]
Recipe = Callable[[str, int], Suite]
"""(norm, number of classes) -> the attacks that a suite consists of there."""

MOST_TARGETS = 9
"""Classes that AutoAttack's targeted attacks try at most."""


def standard(norm: str, classes: int) -> Suite:
    """Return AutoAttack's standard version: Auto-PGD on the cross-entropy, Auto-PGD and FAB towards classes, Square.

    Source: Croce & Hein 2020, arXiv:2003.01690, Sec. 5; l1: Croce & Hein 2021, arXiv:2103.01208, Sec. 5.
    """
    sparse = norm == "l1"
    return (
        ("apgd", {"loss": "cross_entropy", **({"restarts": 5} if sparse else {})}),
        ("apgd_targeted", _towards(5 if sparse else MOST_TARGETS, classes)),
        ("fab_targeted", {**_tried(classes), "stop_at_epsilon": True}),
        ("square", {}),
    )


def plus(norm: str, classes: int) -> Suite:
    """Return AutoAttack's version "plus": five restarts, and the untargeted forms too.

    Source: Croce & Hein 2020, arXiv:2003.01690; the parameters are those of the authors' code.
    """
    considered = {} if classes > MOST_TARGETS else {"num_classes": classes}
    return (
        ("apgd", {"loss": "cross_entropy", "restarts": 5}),
        ("apgd", {"loss": _ratio(classes), "restarts": 5}),
        ("fab", {"restarts": 5, **considered, "stop_at_epsilon": True}),
        ("square", {}),
        ("apgd_targeted", _towards(MOST_TARGETS, classes)),
        ("fab_targeted", {**_tried(classes), "stop_at_epsilon": True}),
    )


def rand(norm: str, classes: int) -> Suite:
    """Return AutoAttack's version for models that draw random numbers: every gradient is the mean of 20.

    Source: Croce & Hein 2020, arXiv:2003.01690, Sec. 5 ("randomized defenses").
    """
    return (
        ("apgd", {"loss": "cross_entropy", "gradient_samples": 20}),
        ("apgd", {"loss": _ratio(classes), "gradient_samples": 20}),
    )


def audited(norm: str, classes: int) -> Suite:
    """Return the search of our own evaluation: the floor, then the ladder; an audit by :func:`auditor` follows.

    l0 has minimum-norm attacks in place of the ladder, and other threat sets the attack made for them.
    """
    floor = ("noise_uniform", {"restarts": 1})
    if norm in ("linf", "l2", "l1"):
        return (floor, ("ladder", {}))
    if norm == "l0":
        return (floor, ("fmn", {}), ("sigma_zero", {}))
    kind = norm.partition(":")[0]
    return (floor, ("patch", {})) if kind == "patch" else ((kind.replace("-", "_"), {}),)


def auditor(norm: str, classes: int) -> Suite:
    """Return the attacks that an audit runs on the survivors that it draws: all of AutoAttack, and one more.

    The margin is a stronger loss for Auto-PGD than the two of AutoAttack on many models. Empty where there is no standard.
    """
    if norm not in ("linf", "l2", "l1"):
        return ()
    return (*standard(norm, classes), ("apgd", {"loss": "margin"}))


def _ratio(classes: int) -> str:
    """The difference-of-logits ratio where it is defined, else the margin, which is its numerator."""
    return "dlr" if classes >= LOSSES["dlr"].classes else "margin"


def _towards(most: int, classes: int) -> dict[str, Any]:
    """Parameters of Auto-PGD towards ``most`` classes, or all there are; what equals the defaults is left out."""
    tried = min(most, classes - 1)
    given: dict[str, Any] = {} if tried == MOST_TARGETS else {"n_targets": tried}
    return given if classes >= LOSSES["dlr"].classes_targeted else {**given, "loss": "margin"}


def _tried(classes: int) -> dict[str, Any]:
    return {} if classes > MOST_TARGETS else {"num_targets": classes - 1}


RECIPES: dict[str, Recipe] = {"audited": audited, "standard": standard, "plus": plus, "rand": rand}
"""The suites that depend on norm and number of classes."""

ALIASES = {"autoattack": "standard"}

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
    **{name: recipe("linf", 10) for name, recipe in RECIPES.items()},
}
"""Every named suite, as it is in linf for ten classes."""


def suite(name: str, norm: str = "linf", classes: int = 10) -> Suite:
    """Return the suite ``name``; the name of an attack is the suite of that attack alone.

    Args:
        name: of a suite, of an attack, or "autoattack", which is "standard".
        norm: norm of the threat model, or the family of another threat set.
        classes: number of classes of the model, >= 2.

    Raises:
        UnknownName: for a name that is none of these.

    Example:
        >>> suite("standard", "linf", 3)[1]
        ('apgd_targeted', {'n_targets': 2, 'loss': 'margin'})
    """
    name = ALIASES.get(name, name)
    if name in RECIPES:
        return RECIPES[name](norm, classes)
    if name in SUITES:
        return SUITES[name]
    if name in ATTACKS:
        return ((name, {}),)
    known = [*SUITES, *ALIASES, *(card.name for card in ATTACKS)]
    raise UnknownName(f"the suite {name!r} is not known", "", did_you_mean(name, known))


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
