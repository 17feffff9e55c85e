"""Changes of pictures that keep or destroy one kind of information: smoothing, saturation, gamma, tiles, frequencies, phases.

Pure functions of tensors, each sample by itself. Values are in the units of ``bounds``; where a function may leave them, it
says so.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidType, InvalidValue
from robustscope.core.types import Bounds, ThreatModel

UNIT = Bounds(0.0, 1.0)


def check_images(x: Tensor) -> Tensor:
    """Return pictures as they are.

    Raises:
        InvalidType: for anything but a floating-point tensor.
        InvalidValue: for another shape than (B, C, H, W).
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InvalidType(
            f"pictures of type {getattr(x, 'dtype', type(x).__name__)} were given",
            "a floating-point tensor is allowed",
            "Divide 8-bit pictures by 255: x = x.float() / 255.",
        )
    if x.dim() != 4:
        raise InvalidValue(
            f"inputs of shape {tuple(x.shape)} were given",
            "pictures (B, C, H, W) are allowed",
            "Reshape vectors that are pictures; what is no picture has no neighbours to look at.",
        )
    return x


def smooth(x: Tensor, kernel: int) -> Tensor:
    """Average each value over a square of ``kernel`` x ``kernel`` pixels; beyond the edges the outermost pixel goes on.

    Args:
        x: (B, C, H, W).
        kernel: side of the square in pixels, >= 1; 1 changes nothing. An even square reaches one pixel further down and
            to the right.

    Returns:
        (B, C, H, W), between the least and the largest value of the picture.

    Example:
        >>> smooth(torch.tensor([[[[0.0, 1.0, 0.0]]]]), 3).tolist()
        [[[[0.3333333432674408, 0.3333333432674408, 0.3333333432674408]]]]

    Source: Ding, Lui, Jin, Wang and Huang, 2019, arXiv:1902.08336, Sec. 4 (average filters on MNIST).

    Departures: the source does not say what lies beyond the edges; zeros would darken them.
    """
    check_images(x)
    if isinstance(kernel, bool) or not isinstance(kernel, int) or kernel < 1:
        raise InvalidValue(f"kernel={kernel!r} was given", "an integer >= 1 is allowed", "Write e.g. kernel=3.")
    before, after = (kernel - 1) // 2, kernel // 2
    wide = F.pad(x, (before, after, before, after), mode="replicate") if len(x) else x
    for axis, length in ((-2, x.shape[-2]), (-1, x.shape[-1])):
        if len(x):
            wide = torch.stack([wide.narrow(axis, i, length) for i in range(kernel)]).sum(0) / kernel
    return wide


def saturate(x: Tensor, level: float, bounds: Bounds = UNIT) -> Tensor:
    """Push values towards the two ends of the range, or towards its middle: sign(2x - 1) |2x - 1|^(2 / level) / 2 + 1/2.

    Args:
        x: (B, *S), inside the bounds.
        level: > 0; 2 changes nothing, more pushes outwards, ``inf`` leaves the two ends and an exact middle, less greys.
        bounds: valid range, which stands for 0 to 1 in the formula.

    Returns:
        (B, *S), inside the bounds.

    Raises:
        InvalidValue: for a level that is not above 0.

    Example:
        >>> saturate(torch.tensor([[0.0, 0.25, 0.5, 1.0]]), float("inf")).tolist()
        [[0.0, 0.0, 0.5, 1.0]]

    Source: Ding et al., 2019, arXiv:1902.08336, Sec. 4.
    """
    if not level > 0:
        raise InvalidValue(f"level={level!r} was given", "a number > 0 is allowed", "2 changes nothing.")
    lower, upper = bounds
    away = (2 * (x - lower) / (upper - lower) - 1).clamp(-1, 1)
    pushed = away.sign() * away.abs() ** (2 / level)
    return ((pushed + 1) / 2 * (upper - lower) + lower).clamp(lower, upper)


def adjust_gamma(x: Tensor, gamma: float, bounds: Bounds = UNIT) -> Tensor:
    """Return x^gamma: darker above 1, lighter below.

    Args:
        x: (B, *S), inside the bounds.
        gamma: > 0; 1 changes nothing.
        bounds: valid range, which stands for 0 to 1.

    Raises:
        InvalidValue: for a gamma that is not above 0, or not finite.

    Source: Ding et al., 2019, arXiv:1902.08336.
    """
    if not 0 < gamma < math.inf:
        raise InvalidValue(f"gamma={gamma!r} was given", "a finite number > 0 is allowed", "1 changes nothing.")
    lower, upper = bounds
    unit = ((x - lower) / (upper - lower)).clamp(0, 1)
    return (unit**gamma * (upper - lower) + lower).clamp(lower, upper)


def log_volume(x: Tensor, threat: ThreatModel) -> Tensor:
    """Return how much room an linf adversary has around each sample: the log of the volume of (ball ∩ box), per value.

    The box cuts the ball at values near an end of the range, so that a binary picture leaves half of the room in each
    direction that a grey one leaves: log of the mean geometric side length min(upper, x + e) - max(lower, x - e).

    Args:
        x: (B, *S), inside the bounds.
        threat: linf, epsilon > 0.

    Returns:
        float64 (B,), between log(epsilon) and log(2 epsilon) wherever the range is at least 2 epsilon wide.

    Raises:
        InvalidValue: for another norm or an epsilon of 0.

    Example:
        >>> log_volume(torch.tensor([[0.0, 0.5]]), ThreatModel("linf", 0.3)).exp()  # sides 0.3 and 0.6
        tensor([0.4243], dtype=torch.float64)

    Source: Ding et al., 2019, arXiv:1902.08336, Sec. 5 (perturbable volume).

    Departures: divided by the number of values, so that data of different sizes can be compared.
    """
    radius = threat.radius(x).double()
    if threat.norm != "linf" or not (radius > 0).all():
        raise InvalidValue(
            f"a threat of norm {threat.norm!r} and epsilon={threat.epsilon} was given",
            "linf with epsilon > 0 is allowed",
            "The ball of another norm has no sides; write e.g. ThreatModel('linf', 0.3).",
        )
    values, reach = x.double().flatten(1), radius[:, None]
    lower, upper = threat.bounds
    return ((values + reach).clamp(max=upper) - (values - reach).clamp(min=lower)).log().mean(1)


def tile_orders(draws: Draws, purpose: str, grid: int) -> Tensor:
    """Return a uniform permutation of ``grid`` x ``grid`` tiles for each sample: int64 (B, grid^2) on the CPU."""
    keys = draws.uniform(purpose, torch.empty(len(draws.ids), grid * grid, dtype=torch.float64))
    return keys.argsort(dim=1, stable=True)


def shuffle_tiles(x: Tensor, orders: Tensor) -> Tensor:
    """Cut pictures into a square grid of tiles, and put tile ``orders[b, i]`` where tile i was.

    ``orders.argsort(1)`` puts them back.

    Args:
        x: (B, C, H, W); the sides of the grid divide H and W.
        orders: int64 (B, grid^2), a permutation for each sample.

    Raises:
        InvalidValue: if the tiles do not fit: rows left over would be lost silently otherwise.

    Source: Zhang and Zhu, 2019, arXiv:1905.09797, Sec. 3.2 (patch-shuffled images).
    """
    check_images(x)
    grid = math.isqrt(orders.shape[1])
    batch, channels, height, width = x.shape
    if height % grid or width % grid:
        fitting = [k for k in range(2, min(height, width) + 1) if not height % k and not width % k]
        raise InvalidValue(
            f"a grid of {grid} x {grid} tiles was asked of pictures of {height} x {width} pixels",
            f"sides that divide both are allowed: {', '.join(map(str, fitting)) or 'none but 1'}",
            "Choose one of them.",
        )
    rows, columns = height // grid, width // grid
    tiles = x.reshape(batch, channels, grid, rows, grid, columns).permute(0, 2, 4, 1, 3, 5)
    tiles = tiles.reshape(batch, grid * grid, channels * rows * columns)
    index = orders.to(x.device)[:, :, None].expand(-1, -1, tiles.shape[2])
    moved = tiles.gather(1, index).view(batch, grid, grid, channels, rows, columns)
    return moved.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def frequency_mask(height: int, width: int, radius: float) -> Tensor:
    """Return which frequencies are below a radius, as ``torch.fft.fft2`` orders them: bool (H, W).

    Frequency (i, j) counts periods over the picture; it is below if sqrt(i^2 + j^2) < radius. The mask is symmetric for
    odd sides too, so that what it picks of a real picture is real.

    Example:
        >>> [int(frequency_mask(32, 32, r).sum()) for r in (1, 2, 4, 8, 12, 16)]
        [1, 9, 45, 193, 437, 793]
    """
    rows, columns = (torch.fft.fftfreq(side, 1 / side, dtype=torch.float64) for side in (height, width))
    return rows[:, None].square() + columns.square() < radius**2


def split_frequencies(x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Split pictures into what changes slowly and what changes fast, channel by channel.

    Args:
        x: (B, C, H, W).
        radius: periods over the picture at which the split is, >= 0; frequencies at it are high.

    Returns:
        low and high, both (B, C, H, W), which sum to ``x``. They leave the bounds: high has mean 0 (if radius > 0).

    Raises:
        InvalidValue: for a negative radius.

    Source: Wang, Wu, Huang and Xing, 2020, arXiv:1905.13545, Sec. 3.

    Departures: the mask is centred at frequency 0 for odd sides too; the authors' program centres it between two.
    """
    check_images(x)
    if not radius >= 0:
        raise InvalidValue(f"radius={radius!r} was given", "a number >= 0 is allowed", "Write e.g. radius=8.")
    low = x
    if len(x):
        mask = frequency_mask(x.shape[-2], x.shape[-1], radius).to(x.device)
        low = torch.fft.ifft2(torch.fft.fft2(x) * mask).real.contiguous()
    return low, x - low


def flatten_amplitudes(x: Tensor, slope: float = 1.0) -> Tensor:
    """Keep the phases of pictures, which hold edges and so the shape, and give all of them one amplitude spectrum.

    The amplitude of frequency f becomes f^-slope, whatever the texture was; mean and standard deviation of each channel
    stay. No network and no outside weights are needed, unlike for stylised pictures.

    Args:
        x: (B, C, H, W).
        slope: 1 is the average of natural pictures, 0 whitens.

    Returns:
        (B, C, H, W); may leave the bounds.

    Source: Oppenheim and Lim, 1981, doi:10.1109/PROC.1981.12022 (the phase alone shows the picture); Field, 1987,
        doi:10.1364/JOSAA.4.002379 (amplitudes fall as 1/f).
    """
    check_images(x)
    if not len(x):
        return x
    spectrum = torch.fft.fft2(x)
    size = spectrum.abs()
    # A frequency that the picture lacks has no phase; rounding must not give it one.
    known = size > 1e3 * torch.finfo(x.dtype).eps * size.amax((-2, -1), keepdim=True)
    known = known & ~frequency_mask(x.shape[-2], x.shape[-1], 0.5).to(x.device)
    rows, columns = (torch.fft.fftfreq(side, 1 / side, dtype=x.dtype, device=x.device) for side in x.shape[-2:])
    wanted = (rows[:, None].square() + columns.square()).clamp(min=1) ** (-slope / 2)
    phases = torch.where(known, spectrum / size.clamp(min=torch.finfo(x.dtype).tiny), 0)
    found = torch.fft.ifft2(phases * wanted).real
    mean, spread = x.mean((-2, -1), keepdim=True), x.std((-2, -1), keepdim=True, correction=0)
    own = found.std((-2, -1), keepdim=True, correction=0)
    return (found * torch.where(own > 0, spread / own.clamp(min=torch.finfo(x.dtype).tiny), 0) + mean).contiguous()


def scramble_phases(x: Tensor, draws: Draws, purpose: str) -> Tensor:
    """Keep the amplitudes of pictures, which hold a stationary texture, and draw the phases anew, which destroys the shape.

    The same phases are added to all channels, so that colours stay together.

    Args:
        x: (B, C, H, W).
        draws: the phases are those of white noise, one field for each sample.
        purpose: of the draw.

    Returns:
        (B, C, H, W), with the mean of each channel kept; may leave the bounds.

    Source: the phase scrambling of Geirhos et al., 2018, arXiv:1808.08750, after Oppenheim and Lim, 1981.
    """
    check_images(x)
    if not len(x):
        return x
    noise = torch.fft.fft2(draws.normal(purpose, x[:, :1]))
    turn = noise / noise.abs().clamp(min=torch.finfo(x.dtype).tiny)
    turn[..., 0, 0] = 1
    return torch.fft.ifft2(torch.fft.fft2(x) * turn).real.contiguous()
