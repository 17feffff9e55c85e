"""Networks that see the foreground alone: the mask comes after the perturbation, so nothing behind it can be attacked."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds
from robustscope.models.classifier import Classifier
from robustscope.models.defended import Transformation, defend

WARNING = (
    "a mask that a network computes from its input can be attacked too: the figure under masks of the clean inputs is that "
    "of an oracle which no attacker can mislead"
)
"""What must be said wherever a mask comes from the model itself."""


def masked(model: Classifier, mask: Tensor, *, fill: float = 0.0) -> Classifier:
    """Return the classifier that sees ``mask * x``: one mask for all inputs.

    The attacker perturbs x, and the mask comes afterwards. The gradient is therefore exactly 0 off the mask, and the robust
    loss is that under perturbations of the masked coordinates alone.

    Args:
        model: the network; its normalisation comes after the mask.
        mask: bool, one value for each pixel (H, W), or any shape that fits a sample.
        fill: value of the background, inside the bounds.

    Raises:
        InvalidValue: for a mask that is not bool, or a fill outside the bounds.

    Example:
        >>> from torch import nn
        >>> model = masked(Classifier(nn.Linear(3, 2).eval()), torch.tensor([True, False, True]))
        >>> gradient = model.gradient(lambda logits, rows: logits[:, 0], torch.rand(5, 3))[1]
        >>> bool((gradient[:, 1] == 0).all()), bool((gradient[:, 0] != 0).all())
        (True, True)

    Source: Vaishnavi et al. 2019, foreground attention masks; background set to zero.
    """
    _check_fill(model.bounds, fill)
    if mask.dtype != torch.bool:
        raise InvalidValue(f"a mask of {mask.dtype} was given", "bool is allowed", "Write e.g. mask > 0.5.")
    digest = hashlib.sha256(mask.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    facts = f"mask {tuple(mask.shape)}:{digest}, fill={fill}"
    return defend(model, Transformation("foreground", lambda x: _covered(x, mask, fill), backward="exact", facts=facts))


def masked_rows(model: Classifier, *, fill: float = 0.0) -> Classifier:
    """Return the classifier of inputs that carry their masks as a last channel, as :func:`with_masks` makes them.

    So rows with masks of their own go through together. The channel is read by its half: perturbations below half the
    range of the bounds do not change a mask, and its gradient is exactly 0. It is meant for linf balls of such radii
    (:func:`carries_masks`); attackers with other norms could buy another mask, and want :func:`masked` row by row.

    Args:
        model: the network; its normalisation comes after the mask.
        fill: value of the background, inside the bounds.

    Raises:
        InvalidValue: for a fill outside the bounds.

    Example:
        >>> from torch import nn
        >>> model = masked_rows(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()))
        >>> model.logits(with_masks(torch.rand(3, 1, 2, 2), torch.ones(3, 2, 2, dtype=torch.bool))).shape
        torch.Size([3, 2])
    """
    _check_fill(model.bounds, fill)
    middle = sum(model.bounds) / 2

    def cover(x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] < 2:
            raise InvalidValue(
                f"inputs of shape {tuple(x.shape)} were given",
                "pictures (B, C + 1, H, W) whose last channel is the mask are allowed",
                "Write with_masks(x, masks).",
            )
        return _covered(x[:, :-1], x[:, -1:] > middle, fill)

    return defend(model, Transformation("foreground_rows", cover, backward="exact", facts=f"fill={fill}"))


def with_masks(x: Tensor, masks: Tensor, bounds: Bounds = Bounds(0.0, 1.0)) -> Tensor:
    """Return pictures with their masks as a last channel, its values the ends of the bounds.

    Args:
        x: (B, C, H, W).
        masks: bool (B, H, W).
        bounds: of the model.

    Returns:
        (B, C + 1, H, W).
    """
    if x.dim() != 4 or masks.shape != (len(x), *x.shape[2:]) or masks.dtype != torch.bool:
        raise InvalidValue(
            f"pictures {tuple(x.shape)} and masks {tuple(masks.shape)} of {masks.dtype} were given",
            "pictures (B, C, H, W) and bool masks (B, H, W) are allowed",
            "Give one mask for each picture.",
        )
    low, high = bounds
    return torch.cat([x, torch.where(masks[:, None].to(x.device), high, low).to(x)], 1)


def over_backgrounds(model: Classifier, masks: Tensor, x: Tensor) -> Classifier:
    """Return the classifier of numbered pictures whose background is always that of the clean ones.

    The attacker perturbs the foreground alone, and nothing is hidden: of row k the network sees the perturbed picture on the
    mask, and ``x[k]`` off it. It is the control of a mask: what the smaller threat does without the hidden background.

    Args:
        model: the network.
        masks: bool (B, H, W).
        x: (B, C, H, W), the clean pictures.

    Returns:
        The classifier of :func:`numbered` pictures, in any order and with repetitions.

    Example:
        >>> from torch import nn
        >>> x, masks = torch.rand(3, 1, 2, 2), torch.eye(2, dtype=torch.bool).expand(3, 2, 2)
        >>> whole = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval())
        >>> bool((over_backgrounds(whole, masks, x).logits(numbered(x)) == whole.logits(x)).all())
        True
    """
    middle, bits = sum(model.bounds) / 2, (len(x) - 1).bit_length()
    digest = hashlib.sha256(x.detach().cpu().numpy().tobytes() + masks.cpu().numpy().tobytes()).hexdigest()
    value = 2 ** torch.arange(bits, device=x.device)

    def cover(given: Tensor) -> Tensor:
        if not bits:
            return torch.where(masks[:, None], given, x)
        rows = ((given[:, -1].flatten(1)[:, :bits] > middle) * value).sum(1)
        return torch.where(masks[rows, None], given[:, :-1], x[rows].to(given))

    return defend(model, Transformation("clean_backgrounds", cover, backward="exact", facts=digest))


def numbered(x: Tensor, bounds: Bounds = Bounds(0.0, 1.0)) -> Tensor:
    """Return pictures that carry their number in a last channel, a bit in each of its first pixels; a single one none.

    Args:
        x: (B, C, H, W); B at most 2^(H W).
        bounds: of the model; the bits are its ends.

    Returns:
        (B, C + 1, H, W), or (1, C, H, W).
    """
    bits = (len(x) - 1).bit_length()
    if not bits:
        return x
    carried = torch.arange(len(x), device=x.device)[:, None] >> torch.arange(bits, device=x.device) & 1
    channel = torch.full_like(x[:, 0], bounds.lower).flatten(1)
    channel[:, :bits] = torch.where(carried.bool(), bounds.upper, bounds.lower).to(x)
    return torch.cat([x, channel.view_as(x[:, :1])], 1)


def carries_masks(norm: str, epsilon: float, bounds: Bounds) -> bool:
    """Tell whether no perturbation of a ball can change a mask that is carried as a channel."""
    return norm == "linf" and epsilon < (bounds.upper - bounds.lower) / 2


def _covered(x: Tensor, mask: Tensor, fill: float) -> Tensor:
    return torch.where(mask.to(x.device), x, x.new_tensor(fill))


def _check_fill(bounds: Bounds, fill: float) -> None:
    if not bounds.lower <= fill <= bounds.upper:
        raise InvalidValue(
            f"fill={fill} was given", f"{bounds.lower} to {bounds.upper} is allowed", "Write e.g. fill=0.0."
        )


def saliency_masks(model: Classifier, x: Tensor, *, share: float = 0.25, smooth: int = 3) -> Tensor:
    """Return for each input the mask of the pixels that its predicted class depends on most.

    Saliency is the absolute input gradient of the margin of the predicted class, summed over channels and averaged over a
    window. A stand-in where nobody drew the foreground; see :data:`WARNING`, and :func:`self_masked` for the attack on it.

    Args:
        model: differentiable.
        x: (B, C, H, W).
        share: of the pixels that belong to the mask, in (0, 1]; at least one pixel.
        smooth: side of the window, odd.

    Returns:
        bool (B, H, W), each with the same number of pixels. Ties go to the pixel that comes first.

    Raises:
        InvalidValue: for other shapes, shares or windows, and black boxes.
    """
    _check_saliency(x, share, smooth)

    def margin(logits: Tensor, rows: Tensor) -> Tensor:
        two = logits.topk(2, dim=1).values
        return two[:, 0] - two[:, 1]

    gradient = model.gradient(margin, x.detach())[1]
    saliency = gradient.abs().sum(1, keepdim=True)
    saliency = F.avg_pool2d(saliency, smooth, stride=1, padding=smooth // 2).flatten(1)
    count = max(1, round(share * saliency.shape[1]))
    best = saliency.argsort(dim=1, descending=True, stable=True)[:, :count]
    mask = torch.zeros_like(saliency, dtype=torch.bool).scatter_(1, best, True)
    return mask.reshape(len(x), *x.shape[2:])


def self_masked(model: Classifier, *, share: float = 0.25, smooth: int = 3, fill: float = 0.0) -> Classifier:
    """Return the classifier that computes its mask from its own input, perturbed or not, by saliency.

    Ordinary attacks on it attack the mask as well: what moves the saliency moves the mask. Between such moves the mask is
    constant, so the gradient passes through the pixels that it shows.

    Args:
        model: differentiable.
        share, smooth: as for :func:`saliency_masks`.
        fill: value of the background, inside the bounds.

    Returns:
        A classifier with a ledger of its own, in which one row is one question to the whole; the saliency costs one more
        forward and one backward pass inside.

    Raises:
        InvalidValue: for a fill outside the bounds; when it is asked, as :func:`saliency_masks`.
    """
    _check_fill(model.bounds, fill)

    def cover(x: Tensor) -> Tensor:
        return _covered(x, saliency_masks(model, x, share=share, smooth=smooth)[:, None], fill)

    facts = f"share={share}, smooth={smooth}, fill={fill}"
    return defend(model, Transformation("saliency_mask", cover, backward="exact", facts=facts))


def _check_saliency(x: Tensor, share: float, smooth: int) -> None:
    if x.dim() != 4 or not 0 < share <= 1 or smooth < 1 or smooth % 2 == 0:
        raise InvalidValue(
            f"inputs of shape {tuple(x.shape)}, share={share} and smooth={smooth} were given",
            "pictures (B, C, H, W), 0 < share <= 1, and an odd window >= 1 are allowed",
            "Write e.g. share=0.25, smooth=3.",
        )


def gradient_inside(model: Classifier, x: Tensor, y: Tensor, masks: Tensor, *, power: Literal[1, 2] = 2) -> Tensor:
    """Return which share of the loss gradient's energy lies on the foreground, for each sample.

    Args:
        model: differentiable, usually not masked.
        x: (B, C, H, W).
        y: int64 (B,), true classes.
        masks: bool (B, H, W).
        power: of the absolute gradient that is summed; 2 is energy.

    Returns:
        (B,) in [0, 1], NaN where the gradient is 0 everywhere. Compare it with the mask's share of the pixels.
    """
    gradient = model.gradient(lambda logits, rows: F.cross_entropy(logits, y[rows], reduction="none"), x)[1]
    # scaled by its largest value, so that squares of small numbers do not vanish
    largest = gradient.abs().flatten(1).amax(1).clamp(min=torch.finfo(x.dtype).tiny).reshape(-1, 1, 1, 1)
    energy = (gradient / largest).abs().pow(power).sum(1)
    return (energy * masks.to(energy)).flatten(1).sum(1) / energy.flatten(1).sum(1)
