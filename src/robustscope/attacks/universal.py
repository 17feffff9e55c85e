"""A universal perturbation, crafted before, applied to every sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from robustscope.attacks.cards import register
from robustscope.attacks.universal_craft import UniversalPerturbation, digest, load_universal, universal_bytes
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.threats import Threat
from robustscope.core.types import AttackResult, ThreatModel
from robustscope.geometry import balls
from robustscope.models.classifier import Classifier

BIBTEX = """@inproceedings{shafahi2020universal,
  title = {Universal Adversarial Training},
  author = {Shafahi, Ali and Najibi, Mahyar and Xu, Zheng and Dickerson, John and Davis, Larry S. and Goldstein, Tom},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2020}
}"""


def _pin(parameters: dict[str, Any]) -> dict[str, Any]:
    """Put the hash of the file into the plan."""
    if not parameters["perturbation"] or parameters["sha256"]:
        return parameters
    return {**parameters, "sha256": digest(parameters["perturbation"])}


def _equip(folder: Path, model: Classifier, x: Tensor, threat: Threat) -> dict[str, Any]:
    """Write a perturbation of random signs for the contract checks."""
    draws = Draws(0, (0,), "universal/check")
    delta = draws.uniform("delta", x.new_empty(1, *x.shape[1:])).sign() / 16
    norm = cast(ThreatModel, threat).norm
    length = float(balls.distance(norm, torch.zeros_like(delta), delta)[0])
    path = folder / "delta.safetensors"
    path.write_bytes(universal_bytes(UniversalPerturbation(delta[0], norm, length, 0.0, 0.0)))
    return {"perturbation": str(path)}


@register(
    "universal",
    version=1,
    source="Moosavi-Dezfooli et al., 2017, arXiv:1610.08401; crafted as in Shafahi et al., 2020, arXiv:1811.11304",
    bibtex=BIBTEX,
    access="none",
    norms=("linf", "l2", "l1"),
    pin=_pin,
    equip=_equip,
)
def universal(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: Draws,
    targets: Tensor | None = None,
    perturbation: str = "",
    sha256: str = "",
    rescale: bool = True,
) -> AttackResult:
    """Add one perturbation, crafted before on other samples, to every sample.

    P(x + delta), with P the projection on ball and box; nothing is asked of the model. `robustscope universal`, or
    ``attacks.universal_craft.craft_universal``, crafts the perturbation.

    Args:
        model: classifier; not used.
        x: (B, *S), clean inputs inside the bounds.
        y: int64 (B,), true classes; not used.
        threat: linf, l2 or l1 radius, bounds.
        draws: unused; nothing is random here.
        targets: not allowed.
        perturbation: path of the file.
        sha256: hash that the file must have; a plan fills it in, so that a run never continues with another file.
        rescale: whether a perturbation crafted for another radius is scaled to this one.

    Returns:
        One example for each sample; no row.

    Raises:
        MissingFile, BadFile: if the file is absent or holds something else.
        InvalidValue: if no file was named, its hash differs, or it was made for another norm or shape.

    Source: Moosavi-Dezfooli et al. 2017, arXiv:1610.08401, Sec. 2.
    """
    if not perturbation:
        raise InvalidValue(
            "no perturbation was named",
            "the path of a file that `robustscope universal` wrote is allowed",
            "Write e.g. universal:perturbation=delta.safetensors.",
        )
    found = load_universal(perturbation)
    if sha256 and digest(perturbation) != sha256:
        raise InvalidValue(
            f"{perturbation!r} has another sha-256 than {sha256[:12]}… of the plan",
            "the file that was planned is allowed",
            "Restore it, or evaluate into a new folder.",
        )
    if found.norm != threat.norm or found.delta.shape != x.shape[1:]:
        raise InvalidValue(
            f"{perturbation!r} was made for {found.norm} and inputs of shape {tuple(found.delta.shape)}",
            f"{threat.norm} and {tuple(x.shape[1:])} are allowed here",
            "Craft one for this threat model and these data.",
        )
    delta = found.delta.to(x)[None]
    if rescale and found.epsilon > 0:
        delta = delta * (threat.radius(x) / found.epsilon).reshape(-1, *([1] * (x.dim() - 1)))
    x_adv = balls.project(threat, x, x + delta)
    return AttackResult(x_adv, torch.zeros_like(y), torch.zeros_like(y))
