"""Pictures whose shape says one class and whose texture another: the names of the classes, and digits filled with stripes.

The digits know their answer: two classifiers that look at one cue only, and see it without error, come with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue

Kind = Literal["consistent", "conflict", "random"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIDE, WAVELENGTH = 32, 5.0
BASE, SWING = 0.6, 0.4
"""Stripes swing around the base; the background is 0, so that the shape can be told from any stripe."""
CLASSES = 10


def _span(*ranges: tuple[int, int]) -> tuple[int, ...]:
    return tuple(i for first, last in ranges for i in range(first, last + 1))


SIXTEEN: Mapping[str, tuple[int, ...]] = {
    "airplane": (404,),
    "bear": _span((294, 297)),
    "bicycle": (444, 671),
    "bird": (8, *_span((10, 16), (18, 20), (22, 24), (80, 83), (87, 96), (98, 100), (127, 133), (135, 145))),
    "boat": (472, 554, 625, 814, 914),
    "bottle": (440, 720, 737, 898, 899, 901, 907),
    "car": (436, 511, 817),
    "cat": _span((281, 286)),
    "chair": (423, 559, 765, 857),
    "clock": (409, 530, 892),
    "dog": _span(
        (152, 191), (193, 203), (205, 226), (228, 241), (243, 250), (252, 257), (259, 259), (261, 263), (265, 268)
    ),
    "elephant": (385, 386),
    "keyboard": (508, 878),
    "knife": (499,),
    "oven": (766,),
    "truck": (555, 569, 656, 675, 717, 734, 864, 867),
}
"""The 16 entry-level categories of Geirhos et al., and the outputs of a model of ImageNet that belong to each."""


@dataclass(frozen=True)
class CueDigits:
    """Digits filled with stripes.

    Args:
        x: float32 (n, 1, 32, 32), 0 outside the digit, 0.2 to 1 inside.
        shapes: int64 (n,), the digit.
        textures: int64 (n,), the class of the stripes: their angle is 18 degrees times it.
    """

    x: Tensor
    shapes: Tensor
    textures: Tensor


def cue_digits(images: Tensor, labels: Tensor, kind: Kind, *, draws: Draws) -> CueDigits:
    """Fill digits with stripes whose angle stands for a class.

    Args:
        images: (n, 1, 8, 8) in [0, 1], digits.
        labels: int64 (n,), 0 to 9.
        kind: "consistent" takes the stripes of the digit's own class, "conflict" those of another at random, "random" those
            of any class at random.
        draws: of classes and phases of the stripes, for each digit.

    Returns:
        The pictures with both cues.

    Raises:
        InvalidValue: for another kind.

    Source: the experiment of Geirhos et al., 2019, arXiv:1811.12231, on a small scale: as their images of Stylized-ImageNet
        ("random") and of cue conflict, with stripes for styles.
    """
    if kind not in KINDS:
        raise InvalidValue(f"kind={kind!r} was given", f"one of {KINDS} is allowed", "Write e.g. kind='conflict'.")
    if kind == "random":
        textures = draws.integers("texture", 1, 0, CLASSES)[:, 0]
    else:
        textures = labels + (0 if kind == "consistent" else draws.integers("other", 1, 1, CLASSES)[:, 0])
    inside = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", align_corners=False) > 0.35
    phases = draws.uniform("phase", torch.empty(len(images), 1), 0, 2 * math.pi)
    stripes = BASE + SWING * torch.sin(_waves(textures % CLASSES) + phases[:, :, None])
    return CueDigits(torch.where(inside, stripes[:, None], 0.0), labels, textures % CLASSES)


def _waves(textures: Tensor) -> Tensor:
    """Return the running phase of the stripes of each class: float32 (n, H, W)."""
    angle = textures.float() * (math.pi / CLASSES)
    place = torch.arange(SIDE, dtype=torch.float32)
    across = angle.cos()[:, None, None] * place + angle.sin()[:, None, None] * place[:, None]
    return across * (2 * math.pi / WAVELENGTH)


class TextureOracle(nn.Module):
    """Sees nothing but the stripes: minus what is left of the digit when the best stripes of each class are taken away."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", _waves(torch.arange(CLASSES)).flatten(1), persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 10): minus the squared remainder of a least-squares fit of a sine and a cosine inside the digit."""
        flat = x.flatten(1).double()
        inside = (flat > BASE - SWING - 0.1).double()
        signal = (flat - BASE) * inside
        waves = self.get_buffer("waves").double()
        basis = torch.stack([waves.sin(), waves.cos()], 1)  # (10, 2, HW)
        masked = basis[None] * inside[:, None, None]
        products = masked @ masked.transpose(2, 3) + 1e-9 * torch.eye(2, dtype=torch.float64, device=x.device)
        along = (masked @ signal[:, None, :, None])[..., 0]
        explained = (along * torch.linalg.solve(products, along)).sum(2)
        return (explained - signal.square().sum(1, keepdim=True)).to(x.dtype)


class ShapeOracle(nn.Module):
    """Sees nothing but the outline: minus the number of pixels by which it differs from the nearest known one of each class.

    Args:
        x: (n, 1, 32, 32), digits whose outlines are known.
        shapes: int64 (n,), their classes.
    """

    def __init__(self, x: Tensor, shapes: Tensor) -> None:
        super().__init__()
        self.register_buffer("known", (x.flatten(1) > BASE - SWING - 0.1).float(), persistent=False)
        self.shapes = shapes
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 10)."""
        mine = (x.flatten(1) > BASE - SWING - 0.1).float()
        known = self.get_buffer("known")
        apart = mine.sum(1, keepdim=True) + known.sum(1) - 2 * mine @ known.T
        far = torch.full((len(x), CLASSES), float(SIDE * SIDE + 1), device=x.device)
        return -far.scatter_reduce(1, self.shapes.expand(len(x), -1), apart, "amin").to(x.dtype)


def pool_probabilities(logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean probability of the outputs that belong to each category: (B, K) -> (B, G).

    The mean, not the sum: a sum would favour categories with many outputs, such as the 109 dogs of ImageNet.

    Args:
        logits: (B, K).
        groups: outputs of each category, e.g. ``SIXTEEN.values()``.

    Raises:
        InvalidValue: for fewer than two categories, an empty one, or outputs that the model does not have.

    Source: Geirhos et al., 2019, arXiv:1811.12231, the mapping of the authors' program; the figures in the paper itself were made with another.
    """
    wanted = [list(group) for group in groups]
    outputs = logits.shape[1]
    if len(wanted) < 2 or not all(wanted) or any(not 0 <= i < outputs for group in wanted for i in group):
        raise InvalidValue(
            f"{len(wanted)} categories with outputs up to {max((i for g in wanted for i in g), default=-1)} were given",
            f"two or more categories, each with some of the outputs 0 to {outputs - 1}, are allowed",
            "Give one list of outputs for each category; 'imagenet-16' is for models of ImageNet's 1,000 classes.",
        )
    shares = logits.double().softmax(1)
    return torch.stack([shares[:, group].mean(1) for group in wanted], 1)
