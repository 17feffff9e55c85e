"""Fewer bits for each value."""

from __future__ import annotations

from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue
from robustscope.core.types import Bounds
from robustscope.defenses.cards import register

GUO = """@inproceedings{guo2018countering,
  title = {Countering Adversarial Images using Input Transformations},
  author = {Guo, Chuan and Rana, Mayank and Ciss{\\'e}, Moustapha and van der Maaten, Laurens},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}"""


@register(
    "bit_depth",
    version=1,
    source="Guo et al., 2018, arXiv:1711.00117, Sec. 4; Xu et al., 2018, arXiv:1704.01155, Sec. III-A",
    bibtex=GUO,
    backward="identity",
)
def bit_depth(x: Tensor, *, draws: Draws, bounds: Bounds, depth: int = 3) -> Tensor:
    """Round every value to the nearest of 2^depth equal levels of the bounds.

    Args:
        x: (B, *S), inside the bounds.
        draws: unused; it is deterministic.
        bounds: valid range of every input value.
        depth: bits, 1 to 16.

    Returns:
        (B, *S); no value moves by more than half a level, (upper - lower) / (2 (2^depth - 1)).

    Raises:
        InvalidValue: for a depth outside 1 to 16.

    Source: Guo et al. 2018, arXiv:1711.00117, Sec. 4.

    Departures: the authors' code multiplies by 2^depth, which gives 2^depth + 1 levels.
    """
    if not 1 <= depth <= 16:
        raise InvalidValue(f"depth={depth} was given", "1 to 16 bits are allowed", "The paper uses 3.")
    levels, width = 2**depth - 1, bounds.upper - bounds.lower
    return (((x - bounds.lower) / width * levels).round() / levels * width + bounds.lower).clamp(*bounds)
