"""Videos with a known answer: a bright square that moves, and a network that judges by where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from robustscope.core.errors import InvalidValue
from robustscope.data.frames import FrameSet, from_sequences


def moving_squares(
    starts: Sequence[float], speeds: Sequence[float], *, frames: int = 21, size: int = 16, side: int = 4
) -> FrameSet:
    """Return a video for each start: a white square on black moves sideways; the frame in the middle is the anchor.

    The class of a frame is 0 where the middle of its square lies left of the middle of the picture, else 1.

    Args:
        starts: column of the square's left edge in the anchor.
        speeds: columns by which it moves from a frame to the next; columns are rounded, and kept inside the picture.
        frames: of each video, odd.
        size: height and width of the pictures.
        side: of the square.

    Raises:
        InvalidValue: for an even number of frames, or a square that does not fit.

    Example:
        >>> frames = moving_squares([4, 9], [1.0, 0.5])
        >>> frames.shape, len(frames.names), [frames.labels[a] for a in frames.anchors]
        ((1, 16, 16), 42, [(0,), (1,)])
    """
    if frames < 1 or frames % 2 == 0 or not 0 < side < size or len(starts) != len(speeds):
        raise InvalidValue(
            f"frames={frames}, side={side}, size={size}, {len(starts)} starts and {len(speeds)} speeds were given",
            "an odd number of frames, a smaller square, and a speed for each start are allowed",
            "Write e.g. moving_squares([4], [1.0]).",
        )
    half, top = frames // 2, (size - side) // 2
    pixels = np.zeros((len(starts), frames, 1, size, size), np.uint8)
    labels = []
    for video, (start, speed) in enumerate(zip(starts, speeds, strict=True)):
        for i in range(frames):
            left = int(np.clip(round(start + speed * (i - half)), 0, size - side))
            pixels[video, i, 0, top : top + side, left : left + side] = 255
            labels.append((int(2 * left + side >= size),))
    found = from_sequences(pixels, [0] * len(pixels), name="moving squares", class_names=("left", "right"))
    return replace(found, labels=tuple(labels))


class EdgeJudge(nn.Module):
    """Says "right" where more light falls on the columns from ``edge`` on than before it, else "left".

    With the edge in the middle of the picture it is right on every frame of :func:`moving_squares` whose square does not
    lie halfway; elsewhere, it is wrong on the frames whose square has its middle between the two.
    """

    def __init__(self, edge: float) -> None:
        super().__init__()
        self.edge = edge
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return light left and right of the edge, (B, 2); a tie says "left"."""
        columns = x.sum((1, 2))
        left = (torch.arange(columns.shape[1], device=x.device) < self.edge).to(x)
        return torch.stack([columns @ left, columns @ (1 - left)], 1)
