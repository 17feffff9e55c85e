"""Frost."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.corruptions.cards import HENDRYCKS, register
from robustscope.corruptions.colours import grey
from robustscope.corruptions.tables import Constants, benchmark, constant
from robustscope.corruptions.textures import frost_textures

FROST = {
    "imagenet-c": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "tiny-imagenet-c": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    "cifar-10-c": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
}
"""Weight of the picture, and of the frost."""

SCALE = {"imagenet-c": 1.0, "tiny-imagenet-c": 0.3, "cifar-10-c": 0.2, "mnist-c": 1.0}


@register(
    "frost",
    version=1,
    source="Hendrycks & Dietterich, 2019, arXiv:1903.12261, Sec. 4.1",
    bibtex=HENDRYCKS,
    family="weather",
    stochastic=True,
    channels=(1, 3),
    known_failures={
        "grows_with_severity": "the picture is dimmed as the frost grows brighter, so that distances level off after severity 3"
    },
)
def frost(x: Tensor, severity: int, *, draws: Draws, constants: Constants = "auto") -> Tensor:
    """Lay a random part of a texture like frost over the picture: x' = a x + b frost.

    Args:
        x: (B, C, H, W), in [0, 1]; grey or RGB.
        severity: 1 to 5; the texture and its part are the same at each.
        draws: random numbers of the samples.
        constants: benchmark whose constants are taken, and with them the size of the textures (1, 0.3 or 0.2); "auto"
            goes by the size of the pictures.

    Returns:
        (B, C, H, W), clipped to [0, 1].

    Raises:
        InvalidValue: for another severity or unknown constants.

    Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1; constants of the authors' programs.

    Departures: the benchmark cuts its parts out of five photographs, which are not shipped. Five textures are
    synthesised instead, with the means, contrasts and spectra of those; a model's error on one frost is close to, but
    not, that on the other.
    """
    weight, ice = constant(FROST, constants, x, severity)
    textures = frost_textures(SCALE[benchmark(constants, x)])
    height, width = textures.shape[-2:]
    place = draws.integers("texture", 3, 0, 2**31)
    kinds, tops, lefts = (place % torch.tensor([len(textures), height, width])).T.tolist()
    layer = x.new_empty(len(x), 3, *x.shape[-2:])
    for target, kind, top, left in zip(layer, kinds, tops, lefts, strict=True):
        for rows, from_row in _pieces(x.shape[-2], top, height):
            for columns, from_column in _pieces(x.shape[-1], left, width):
                size = rows.stop - rows.start, columns.stop - columns.start
                part = textures[kind].narrow(1, from_row, size[0]).narrow(2, from_column, size[1])
                target[:, rows, columns] = part
    layer.div_(255)
    ices = grey(layer) if x.shape[1] == 1 else layer
    return ices.mul_(ice).add_(x * weight).clamp_(0, 1)


def _pieces(length: int, start: int, period: int) -> list[tuple[slice, int]]:
    """Return the pieces of a line of so many pixels that lie on a texture without a break, and where they begin there."""
    pieces, done = [], 0
    while done < length:
        place = (start + done) % period
        size = min(length - done, period - place)
        pieces.append((slice(done, done + size), place))
        done += size
    return pieces
