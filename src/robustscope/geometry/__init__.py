"""Floor 1: pure tensor functions: distances, projections, steps, losses.

Importing this package imports the threat sets that are not balls: each teaches ``balls.project``, ``balls.sample``,
``balls.distance`` and ``balls.contains`` its own type.
"""

from robustscope.geometry import patches, rigid

__all__ = ["patches", "rigid"]
