"""The rotation-translation threat set: the transformation itself, and membership proved by its parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.threats import RotationTranslation
from robustscope.core.types import Bounds
from robustscope.geometry import balls

SNAP = 1e-9
"""Source coordinates this near to a pixel are that pixel: sine and cosine of 90 degrees are not exact."""
TINY = 1e-9


def transform(x: Tensor, parameters: Tensor, bounds: Bounds) -> Tensor:
    """Rotate each image about its centre, then shift it; bilinear, and black (the lower bound) from outside.

    Args:
        x: (B, *S) with at least two dimensions in S, the last two of which are height and width.
        parameters: (B, 3): angle in degrees, counter-clockwise as seen; shift to the right and shift down, in pixels.
        bounds: valid range of the values.

    Returns:
        (B, *S), in the dtype of ``x`` and inside the bounds. Where no interpolation is needed (no rotation, quarter turns
        of squares, shifts by whole pixels) values are copied bit for bit.

    Raises:
        InvalidValue: for inputs that are no images.

    Source: Engstrom et al. 2019, arXiv:1712.02779, Sec. 3; bilinear interpolation after Jaderberg et al. 2015,
        arXiv:1506.02025, Sec. 3.3.

    Departures: filled with the lower bound, which is the zero of the paper for images in [0, 1].
    """
    check_images(x)
    image = x.reshape(len(x), math.prod(x.shape[1:-2]), *x.shape[-2:])
    high, wide = image.shape[-2:]
    row, column = _sources(parameters.to(x.device).double(), high, wide)
    top, left = row.floor(), column.floor()
    down, right = (row - top).to(x.dtype), (column - left).to(x.dtype)
    flat = image.flatten(2)
    out = torch.zeros_like(flat)
    for step_down, weight_down in ((0, 1 - down), (1, down)):
        for step_right, weight_right in ((0, 1 - right), (1, right)):
            r, c = top + step_down, left + step_right
            inside = (r >= 0) & (r < high) & (c >= 0) & (c < wide)
            where = (r.clamp(0, high - 1) * wide + c.clamp(0, wide - 1)).long().flatten(1)
            values = flat.gather(2, where[:, None].expand_as(flat))
            values = torch.where(inside.flatten(1)[:, None], values, bounds.lower)
            out += (weight_down * weight_right).flatten(1)[:, None] * values
    return out.clamp_(*bounds).view_as(x)


def check_images(x: Tensor) -> None:
    """Refuse inputs that cannot be rotated.

    Raises:
        InvalidValue: for fewer than two dimensions beside the batch.
    """
    if x.dim() < 3:
        raise InvalidValue(
            f"inputs of shape {tuple(x.shape)} were given",
            "images are allowed: (B, H, W) or (B, C, H, W)",
            "Vectors have no directions to rotate; choose another threat set.",
        )


def _sources(parameters: Tensor, high: int, wide: int) -> tuple[Tensor, Tensor]:
    """Return row and column in the input of every pixel of the output: two float64 (B, H, W)."""
    angle, right, down = (value[:, None, None] for value in parameters.unbind(1))
    middle_row, middle_column = (high - 1) / 2, (wide - 1) / 2
    v = torch.arange(high, device=parameters.device).double()[:, None] - middle_row - down
    u = torch.arange(wide, device=parameters.device).double()[None] - middle_column - right
    turn = angle * (math.pi / 180)
    cosine, sine = turn.cos(), turn.sin()
    return _snapped(v * cosine + u * sine + middle_row), _snapped(u * cosine - v * sine + middle_column)


def _snapped(value: Tensor) -> Tensor:
    near = value.round()
    return torch.where((value - near).abs() < SNAP, near, value)


def sizes(threat: RotationTranslation, x: Tensor) -> Tensor:
    """Return the largest parameters of each sample: float64 (B, 3)."""
    largest = (threat.max_rotation, threat.max_translation, threat.max_translation)
    return threat.radius(x).double()[:, None] * torch.tensor(largest, dtype=torch.float64, device=x.device)


def random_parameters(threat: RotationTranslation, x: Tensor, draws: Draws, purpose: str) -> Tensor:
    """Return uniform parameters of the threat set: float64 (B, 3)."""
    return draws.uniform(purpose, x.new_empty(len(x), 3, dtype=torch.float64)) * sizes(threat, x)


@balls.sample.register
def sample(threat: RotationTranslation, x: Tensor, draws: Draws, purpose: str) -> Tensor:
    """Return each image under uniform parameters; see :func:`random_parameters`, for the image alone proves nothing."""
    return transform(x, random_parameters(threat, x, draws, purpose), threat.bounds)


@balls.project.register
def project(threat: RotationTranslation, x: Tensor, z: Tensor) -> Tensor:
    """Refuse: which transformed image is nearest to ``z`` is a search, not a projection."""
    raise InvalidValue(
        f"a projection on {threat.norm!r} was asked for",
        "threat sets with a projection are allowed: lp balls and patches",
        "Clip the parameters instead, and transform: robustscope.geometry.rigid.transform.",
    )


@balls.distance.register
def distance(threat: RotationTranslation, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
    """Return the factor of the sizes that the parameters need: float64 (B,); infinite without parameters."""
    if parameters is None:
        return x.new_full((len(x),), math.inf, dtype=torch.float64)
    used = parameters.to(x.device).double().abs()
    largest = used.new_tensor((threat.max_rotation, threat.max_translation, threat.max_translation))
    return torch.where(used > 0, used / largest, 0.0).amax(1)


@balls.contains.register
def contains(threat: RotationTranslation, x: Tensor, x_adv: Tensor, parameters: Tensor | None = None) -> Tensor:
    """Tell for each sample whether its parameters lie in the set and make ``x_adv`` out of ``x``: bool (B,).

    The parameters hold up to 1e-9; the image up to a few units in the last place, for another machine may fuse a
    multiplication with an addition. Without parameters nothing is proved: False.
    """
    if parameters is None or parameters.shape != (len(x), 3) or x.dim() < 3:
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)
    allowed = distance(threat, x, x_adv, parameters) <= threat.radius(x).double() + TINY
    sound = torch.isfinite(parameters).all(1).to(x.device)
    made = transform(x, torch.where(sound[:, None], parameters.to(x.device), 0.0), threat.bounds)
    unit = torch.finfo(x.dtype).eps * max(abs(threat.bounds.lower), abs(threat.bounds.upper))
    same = ((made - x_adv).flatten(1).abs() <= 8 * unit).all(1)
    lower, upper = threat.bounds
    inside = ((x_adv >= lower) & (x_adv <= upper)).flatten(1).all(1)
    return sound & allowed & same & inside
