"""The largest radius at which a sample can be certified, by bisection."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robustscope.certify.cards import CertifierCard, certify
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Norm, ThreatModel
from robustscope.models.classifier import Classifier
from robustscope.models.doors import check_draws


@dataclass(frozen=True)
class CertifiedRadius:
    """A lower bound of each sample's distance to the nearest adversarial example, with the evidence for it.

    Args:
        radius: float64 (B,), the largest radius that was verified; 0 where none was, also for misclassified samples.
        lower_margin: (B,), the certificate's margin at that radius; at radius 0, the clean margin. Where the method tells the
            radius itself: the margin at radius 0.
        refused: float64 (B,), the smallest radius that was tried and not verified; ``inf`` where all were.
        tried: int64 (B,), radii that were tried.
        forward: int64 (B,), rows that each sample sent forward through the model.
        rows: int64 (B,), linear forms or error terms of all certificates together.
        seconds: of the whole search.
    """

    radius: Tensor
    lower_margin: Tensor
    refused: Tensor
    tried: Tensor
    forward: Tensor
    rows: Tensor
    seconds: float


def certified_radius(
    name: str | CertifierCard,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    *,
    largest: float,
    halvings: int = 8,
    draws: Draws | None = None,
    seed: int = 0,
    **parameters: Any,
) -> CertifiedRadius:
    """Search the largest radius up to ``largest`` at which each sample is verified.

    The first radius tried is ``largest``; samples verified there are done. The others halve the interval between the
    largest radius verified so far and the smallest refused, ``halvings`` times. A certificate at a radius holds for all
    smaller ones, so every answer is sound, also where a certifier happens not to be monotone. A method that tells the
    radius itself, as smoothing does, is asked once.

    Args:
        name: of the certifier.
        model: classifier whose module can be traced.
        x: (B, *S), inside the bounds of the model.
        y: int64 (B,), true classes.
        norm: of the ball.
        largest: radius at which the search begins, > 0.
        halvings: >= 1; the radius found is within ``largest`` / 2^halvings of the largest that can be verified.
        draws, seed: as in :func:`certify`.
        parameters: hyper-parameters of the certifier.

    Raises:
        InvalidValue: for a radius or a number out of range, and as the certifier.

    Example:
        >>> model = Classifier(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)).eval())
        >>> _ = torch.nn.init.eye_(model.module[0].weight)
        >>> found = certified_radius("ibp", model, torch.tensor([[0.8, 0.2]]), torch.tensor([0]), "linf", largest=0.4)
        >>> round(found.radius.item(), 2)
        0.3
    """
    if not 0 < largest < float("inf") or halvings < 1:
        raise InvalidValue(
            f"largest={largest} and halvings={halvings} were given",
            "a finite radius > 0 and a number >= 1 are allowed",
            "Begin e.g. at 0.1 for linf in [0, 1].",
        )
    began = time.perf_counter()
    draws = check_draws(draws, seed, x, "radius")
    clean = certify(name, model, x, y, ThreatModel(norm, 0.0, model.bounds), draws=draws, **parameters)
    found = CertifiedRadius(
        radius=torch.zeros(len(x), dtype=torch.float64, device=x.device),
        lower_margin=clean.lower_margin.clone(),
        refused=x.new_full((len(x),), torch.inf, dtype=torch.float64),
        tried=torch.ones(len(x), dtype=torch.int64, device=x.device),
        forward=clean.forward.clone(),
        rows=clean.rows.clone(),
        seconds=0.0,
    )
    found.refused[~clean.verified] = 0.0
    active = clean.verified.nonzero()[:, 0]
    if clean.radius is not None:
        found.radius[active] = clean.radius[active].clamp(max=largest)
        less = active[clean.radius[active] < largest]
        found.refused[less] = clean.radius[less]
        active = active[:0]
    for step in range(halvings + 1):
        if not len(active):
            break
        at = (found.radius[active] + found.refused[active].clamp(max=largest)) / 2 if step else largest
        radii = torch.as_tensor(at, dtype=torch.float64).expand(len(active))
        threat = ThreatModel(norm, tuple(radii.tolist()), model.bounds)
        proof = certify(name, model, x[active], y[active], threat, draws=draws.select(active), **parameters)
        active = _try(found, proof, active, radii, largest)
    return replace(found, seconds=time.perf_counter() - began)


def _try(found: CertifiedRadius, proof: Any, active: Tensor, radii: Tensor, largest: float) -> Tensor:
    """Write down what certificates at some radii say; return the samples that go on."""
    good, radii = proof.verified, radii.to(found.radius.device)
    found.tried[active] += 1
    found.forward[active] += proof.forward
    found.rows[active] += proof.rows
    found.radius[active[good]] = radii[good]
    found.lower_margin[active[good]] = proof.lower_margin[good]
    found.refused[active[~good]] = radii[~good]
    return active[found.radius[active] < largest]
