"""Pictures whose foreground is known: digits somewhere on clutter."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.data.datasets import load_data

INK = 0.3


def digits_on_clutter(
    split: str = "test",
    *,
    size: int = 16,
    seed: int = 0,
    jitter: int = 1,
    outline: Literal["box", "ink"] = "box",
    contrast: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scikit-learn's digits, each near the middle of clutter, with their masks.

    Clutter is strokes of other digits: the picture is tiled with digits of random classes, turned upside down and dimmed,
    before the digit itself covers its box. So what is behind looks like what matters, and is worthless.

    Args:
        split: "train" or "test".
        size: of the pictures, 8 or more.
        seed: decides places and clutter; the picture of a sample depends on it and the sample alone.
        jitter: most pixels by which a digit is moved away from the middle, in each direction.
        outline: "box" masks the 8 x 8 pixels of the digit, which tells where it is; "ink" its pixels above 0.3, which also tells
            the digit: no attacker can change that, so it measures the mask more than the network.
        contrast: of the clutter, 0 to 1.

    Returns:
        x float32 (n, 1, size, size) in [0, 1], y int64 (n,), masks bool (n, size, size).

    Raises:
        InvalidValue: for other arguments.

    Example:
        >>> x, y, masks = digits_on_clutter()
        >>> x.shape, int(masks[0].sum()), bool((masks.flatten(1).sum(1) == 64).all())
        (torch.Size([500, 1, 16, 16]), 64, True)
    """
    room = (size - 8) // 2
    if not 0 <= jitter <= room or outline not in ("box", "ink") or not 0 <= contrast <= 1:
        raise InvalidValue(
            f"size={size}, jitter={jitter}, outline={outline!r}, contrast={contrast} were given",
            "a size of 8 + 2 jitter or more, 'box' or 'ink', and a contrast of 0 to 1 are allowed",
            "Write e.g. size=16.",
        )
    data = load_data(f"digits#{split}")
    n, tiles = len(data), -(-size // 8)
    digits, y = data.read(range(n)), torch.as_tensor(data.labels)
    draws = Draws(seed, tuple(range(n)), f"digits on clutter/{split}")
    others = draws.integers("clutter", tiles * tiles, 0, n)
    shown = digits[others][:, :, 0].flip(2).reshape(n, tiles, tiles, 8, 8).permute(0, 1, 3, 2, 4)
    x = contrast * shown.reshape(n, 1, 8 * tiles, 8 * tiles)[..., :size, :size]
    masks = torch.zeros(n, size, size, dtype=torch.bool)
    places = (room + draws.integers("place", 2, -jitter, jitter + 1)).tolist()
    for i, (down, right) in enumerate(places):
        x[i, :, down : down + 8, right : right + 8] = digits[i]
        masks[i, down : down + 8, right : right + 8] = digits[i, 0] > INK if outline == "ink" else True
    return x, y, masks
