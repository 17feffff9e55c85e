"""JPEG compression."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds
from robustscope.data.pictures import through_jpeg
from robustscope.defenses.apply import check_pictures
from robustscope.defenses.bit_depth import GUO
from robustscope.defenses.cards import register


@register(
    "jpeg",
    version=1,
    source="Guo et al., 2018, arXiv:1711.00117, Sec. 4; Dziugaite et al., 2016, arXiv:1608.00853",
    bibtex=GUO,
    backward="identity",
)
def jpeg(x: Tensor, *, draws: Draws, bounds: Bounds, quality: int = 75) -> Tensor:
    """Compress every picture as JPEG and open it again.

    Args:
        x: (B, C, H, W), inside the bounds; one channel (grey) or three (RGB).
        draws: unused; it is deterministic.
        bounds: valid range of every input value; mapped to 0 to 255.
        quality: of the JPEG, 1 to 95.

    Returns:
        (B, C, H, W), on 256 levels of the bounds.

    Raises:
        InvalidValue: for a quality outside 1 to 95, or inputs that are no pictures.

    Source: Guo et al. 2018, arXiv:1711.00117, Sec. 4.
    """
    if not 1 <= quality <= 95:
        raise InvalidValue(f"quality={quality} was given", "1 to 95 is allowed", "The paper uses 75.")
    check_pictures(x, "jpeg", (1, 3))
    width = bounds.upper - bounds.lower
    levels = ((x.detach().double() - bounds.lower) / width * 255).round().clamp(0, 255)
    opened = torch.from_numpy(through_jpeg(levels.to(device="cpu", dtype=torch.uint8).numpy(), quality))
    values = opened.to(device=x.device, dtype=x.dtype)
    return (values / 255 * width + bounds.lower).clamp(*bounds)
