"""Random crops, enlarged again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import Bounds
from robustscope.defenses.apply import check_pictures, check_share
from robustscope.defenses.bit_depth import GUO
from robustscope.defenses.cards import register


@register(
    "crop_rescale",
    version=1,
    source="Guo et al., 2018, arXiv:1711.00117, Sec. 4",
    bibtex=GUO,
    stochastic=True,
    backward="exact",
    draws=30,
    quick={"share": 0.5},
)
def crop_rescale(x: Tensor, *, draws: Draws, bounds: Bounds, share: float = 90 / 224) -> Tensor:
    """Cut a random window out of every picture and enlarge it to the size of the picture.

    The paper averages the predictions of 30 crops of 90 x 90 out of 224 x 224.

    Args:
        x: (B, C, H, W), inside the bounds.
        draws: decide the position of each window, uniform.
        bounds: valid range of every input value.
        share: side of the window as a share of the side of the picture, in (0, 1].

    Returns:
        (B, C, H, W), bilinear.

    Raises:
        InvalidValue: for a share outside (0, 1], or inputs that are no pictures.

    Source: Guo et al. 2018, arXiv:1711.00117, Sec. 4.
    """
    check_share("share", share)
    check_pictures(x, "crop_rescale")
    height, width = x.shape[2:]
    tall, wide = (max(1, round(share * side)) for side in (height, width))
    top = draws.integers("top", 1, 0, height - tall + 1).to(x.device)
    left = draws.integers("left", 1, 0, width - wide + 1).to(x.device)
    lines = (top + torch.arange(tall, device=x.device))[:, None, :, None]
    columns = (left + torch.arange(wide, device=x.device))[:, None, None, :]
    picture = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    window = x[picture, channel, lines, columns]
    if not len(x):
        return x.clone()
    return F.interpolate(window, size=(height, width), mode="bilinear", align_corners=False).clamp(*bounds)
