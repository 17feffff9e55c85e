"""Shape without texture, and texture without shape: phases and amplitudes of pictures, each by itself."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from robustscope.core.draws import Draws
from robustscope.core.types import ThreatModel
from robustscope.data.transforms import check_images, flatten_amplitudes, scramble_phases
from robustscope.models.classifier import Classifier
from robustscope.probes.why._sweeps import check_count, correct, kept
from robustscope.probes.why.cards import Findings, register
from robustscope.probes.why.saturation import ZHANG


@register(
    "texture_removed",
    version=1,
    source="Zhang and Zhu, 2019, arXiv:1905.09797, Sec. 3.2 (the question); Oppenheim and Lim, 1981, "
    "doi:10.1109/PROC.1981.12022, and Geirhos et al., 2018, arXiv:1808.08750 (the pictures)",
    bibtex=ZHANG,
    columns={
        "without_texture": "1 if a correctly classified sample stays so with the phases alone, 0 if not",
        "without_shape": "share of draws of the phases in which it stays so with the amplitudes alone",
    },
    robust={"without_texture": "higher", "without_shape": "lower"},
    gaps=dict.fromkeys(("without_texture", "without_shape"), "the sample is misclassified as it is"),
    invariant=dict.fromkeys(("without_texture", "without_shape"), ("scale", "shift")),
    access="decisions",
    inputs="images",
    quick={"repeats": 2},
    brief={"repeats": 1},
)
def texture_removed(
    model: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, *, draws: Draws, slope: float = 1.0, repeats: int = 4
) -> Findings:
    """Classify pictures that keep only their phases, where the shape is, or only their amplitudes, where the texture is.

    Args:
        model: any classifier of pictures.
        x: (B, C, H, W).
        y: int64 (B,), true classes.
        threat: unused.
        draws: of the phases.
        slope: amplitudes that pictures without texture get: f^-slope.
        repeats: draws of the phases, >= 1; the first of more are those of fewer.

    Returns:
        The columns ``without_texture`` and ``without_shape``; the pictures ``phases_alone`` and ``amplitudes_alone``
        (B, C, H, W) that were shown, the latter of the first draw.

    Raises:
        InvalidValue: for no repeats.

    Source: Zhang and Zhu, 2019, arXiv:1905.09797, ask whether a network needs texture or shape.

    Departures: their pictures without texture are stylised by a network (AdaIN), whose weights do not ship here, and which
        was trained on textures itself. Phases and amplitudes need no weights and are exact; what is left of the texture is
        what 1/f amplitudes make of it. Stylised pictures made elsewhere can be classified as any other data.
    """
    check_images(x)
    check_count("repeats", repeats)
    shape = flatten_amplitudes(x, slope)
    textures = [scramble_phases(x, draws, f"phases/{i}") for i in range(repeats)]
    clean = model.decisions(x) == y
    columns = {
        "without_texture": kept(correct(model, y, [shape]), clean),
        "without_shape": kept(correct(model, y, textures), clean),
    }
    pictures = {"phases_alone": shape, "amplitudes_alone": textures[0]}
    axes = {name: tuple(np.arange(side) for side in x.shape[-2:]) for name in pictures}
    return Findings(columns, {}, pictures, axes)
