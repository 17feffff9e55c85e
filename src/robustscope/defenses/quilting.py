"""Image quilting: pictures made anew from patches of clean pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds
from robustscope.defenses.apply import check_count, check_pictures
from robustscope.defenses.bit_depth import GUO
from robustscope.defenses.cards import register


@register(
    "quilting",
    version=1,
    source="Guo et al., 2018, arXiv:1711.00117, Sec. 4; Efros & Freeman, 2001, doi:10.1145/383259.383296",
    bibtex=GUO,
    stochastic=True,
    backward="identity",
    needs=("patches",),
    draws=10,
    quick={"neighbours": 3},
)
def quilting(
    x: Tensor, *, draws: Draws, bounds: Bounds, patches: Tensor, neighbours: int = 10, overlap: int = 2
) -> Tensor:
    """Replace every patch of a picture by a random one of its nearest neighbours among clean patches.

    Patches are laid line by line on a grid that covers the whole picture, the last line and column included. Where a
    new patch overlaps those that lie there already, it is cut along the seam of least squared difference.

    Args:
        x: (B, C, H, W), inside the bounds.
        draws: decide which neighbour is taken at each place.
        bounds: unused; what comes back are values of the patches.
        patches: (M, C, P, P), clean patches; see :func:`patch_database`.
        neighbours: how many nearest patches are drawn from, >= 1; no more than there are.
        overlap: lines and columns that neighbouring places share, at least 0 and less than P.

    Returns:
        (B, C, H, W).

    Raises:
        InvalidValue: for patches that do not fit the pictures, or hyper-parameters out of range.

    Source: Guo et al. 2018, arXiv:1711.00117, Sec. 4: P = 5, one million patches, 10 neighbours.

    Departures: the cut along each side is the cheapest seam that crosses every line once, by dynamic programming as in
        Efros & Freeman 2001, Sec. 2.1, where the paper computes a general minimum graph cut; neighbours are exact and
        without a projection on principal components; the authors' code leaves the right and lower border black.
    """
    check_count(neighbours=neighbours)
    check_pictures(x, "quilting")
    side = patches.shape[-1]
    fits = patches.dim() == 4 and patches.shape[1:] == (x.shape[1], side, side) and side <= min(x.shape[2:])
    if not fits or not 0 <= overlap < side or not len(patches):
        raise InvalidValue(
            f"patches of shape {tuple(patches.shape)} and overlap={overlap} were given for {tuple(x.shape)}",
            "patches (M, C, P, P) of the pictures' channels, no larger than they, and 0 <= overlap < P are allowed",
            "Build them with patch_database(images, patch).",
        )
    patches = patches.to(x)
    lines, columns = (places(n, side, side - overlap) for n in x.shape[2:])
    choice = draws.integers("choice", len(lines) * len(columns), 0, min(neighbours, len(patches))).to(x.device)
    out = torch.zeros_like(x)
    bottom, number = 0, 0
    for top in lines:
        right = 0
        for left in columns:
            here = (..., slice(top, top + side), slice(left, left + side))
            near = nearest(x[here].flatten(1), patches.flatten(1), min(neighbours, len(patches)))
            new = patches[near.gather(1, choice[:, number : number + 1])[:, 0]]
            out[here] = _joined(out[here], new, max(bottom - top, 0), max(right - left, 0))
            right, number = left + side, number + 1
        bottom = top + side
    return out


def places(length: int, side: int, step: int) -> list[int]:
    """Return where patches begin so that they cover everything: every ``step``, and once flush with the end.

    Example:
        >>> places(8, 5, 2)
        [0, 2, 3]
    """
    return [*range(0, length - side, step), length - side]


def patch_database(images: Tensor, patch: int = 5, count: int = 10_000, seed: int = 0) -> Tensor:
    """Return patches from random places of clean pictures: (M, C, P, P), M <= count.

    Args:
        images: (N, C, H, W), clean pictures that are not those to be attacked.
        patch: P, side of a patch.
        count: most patches; all places once if there are no more.
        seed: decides the places.

    Raises:
        InvalidValue: for a patch larger than the pictures, or no pictures.
    """
    check_count(patch=patch, count=count)
    check_pictures(images, "patch_database")
    if not len(images) or patch > min(images.shape[2:]):
        raise InvalidValue(
            f"patches of side {patch} were asked of pictures of shape {tuple(images.shape)}",
            "one picture or more, at least as large as the patches, are allowed",
            "Choose a smaller patch.",
        )
    windows = images.unfold(2, patch, 1).unfold(3, patch, 1)
    each, lines, columns = len(images), windows.shape[2], windows.shape[3]
    total = each * lines * columns
    if total <= count:
        index = torch.arange(total)
    else:
        index = Draws(seed, (0,), "quilting").integers("database", count, 0, total)[0]
    column, rest = index % columns, index // columns
    return windows[rest // lines, :, rest % lines, column].contiguous()


def nearest(blocks: Tensor, patches: Tensor, count: int) -> Tensor:
    """Return the indices of the nearest patches of each block, nearest first: int64 (B, count).

    Differences are summed as they are: the usual product form rounds otherwise in another batch.

    Args:
        blocks: (B, D).
        patches: (M, D).
        count: how many.
    """
    distance = torch.cdist(blocks, patches, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.topk(count, dim=1, largest=False).indices


def _joined(old: Tensor, new: Tensor, covered_lines: int, covered_columns: int) -> Tensor:
    """Return ``new`` (B, C, P, P), cut along the seams where ``old`` covers its first lines or columns."""
    difference = (new - old).square().sum(1)
    fresh = torch.ones_like(difference, dtype=torch.bool)
    position = torch.arange(new.shape[-1], device=new.device)
    if covered_columns:
        cut = seam(difference[:, :, :covered_columns])
        fresh &= position[None, None, :] >= cut[:, :, None]
    if covered_lines:
        cut = seam(difference[:, :covered_lines].transpose(1, 2))
        fresh &= position[None, :, None] >= cut[:, None, :]
    return torch.where(fresh[:, None], new, old)


def seam(cost: Tensor) -> Tensor:
    """Return the cheapest way through a strip, one position for each line, neighbours at most one apart: int64 (B, L).

    Args:
        cost: (B, L, W), of each position.

    Example:
        >>> seam(torch.tensor([[[1.0, 0.0], [0.0, 5.0], [1.0, 0.0]]]))
        tensor([[1, 0, 1]])
    """
    batch, lines = cost.shape[:2]
    total = cost[:, 0]
    steps = []
    offsets = torch.tensor([0, -1, 1], device=cost.device)
    for line in range(1, lines):
        wall = total.new_full((batch, 1), torch.inf)
        before = torch.stack([total, torch.cat([wall, total[:, :-1]], 1), torch.cat([total[:, 1:], wall], 1)])
        best = before.min(0)
        steps.append(offsets[best.indices])
        total = cost[:, line] + best.values
    at = total.argmin(1)
    path = [at]
    for step in reversed(steps):
        at = at + step.gather(1, at[:, None])[:, 0]
        path.append(at)
    return torch.stack(path[::-1], 1)
