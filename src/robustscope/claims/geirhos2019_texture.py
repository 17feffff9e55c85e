"""Geirhos 2019: where texture and shape both tell the class, a convolutional network follows the texture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustscope.analyses.cue_conflict import cue_conflict
from robustscope.claims._remade import whole
from robustscope.claims.cards import Evidence, Plot, Rule, register
from robustscope.claims.effects import column, difference, mean
from robustscope.claims.lab import Lab, Subject
from robustscope.data.datasets import load_data
from robustscope.probes.why.shape_bias import GEIRHOS


@register(
    "geirhos2019_texture",
    version=1,
    source="Geirhos et al., 2019, arXiv:1811.12231, Sec. 2 and 3.1",
    bibtex=GEIRHOS,
    topic="model bias",
    finding="Networks trained on natural pictures decide by texture where texture and shape disagree; trained on pictures "
    "whose texture says nothing, they decide by shape.",
    hypothesis="A convolutional network trained on pictures in which both cues agree decides most conflicts for the texture, "
    "and one trained on pictures with random textures decides many more for the shape.",
    rules=(
        Rule("shape_bias", "percent of decided conflicts that go to the shape, both cues learnt", "below", 40.0, 60.0),
        Rule("gain", "percentage points of shape bias by training on random textures", "above", 20.0, 0.0),
    ),
    caveats="Digits filled with stripes: both cues tell the class alike, which those of photographs need not. The "
    "outline of a digit can be read from coarse brightness, and a small network with strides learns that "
    "first; the stripes take finer filters. The bias of photographs is one of their data as well.",
    data="cue-digits:consistent",
    cause=("data",),
    full={"seeds": 3, "epochs": 60},
    full_recipe="cifar10-fast",
    quick={"seeds": 2, "epochs": 1},
)
def geirhos2019_texture(
    lab: Lab,
    *,
    shapes: str = "cue-digits:conflict,shape#test",
    textures: str = "cue-digits:conflict,texture#test",
    without: str = "cue-digits:random,shape#train",
    model: str = "small_cnn",
    model_parameters: Mapping[str, Any] = {"width": 16},
    seeds: int = 5,
    epochs: int = 15,
) -> Evidence:
    """Train on agreeing cues and on random textures, and ask both about pictures whose cues conflict.

    Args:
        lab: data (where cues agree), networks, measurements.
        shapes: source of pictures in conflict, labelled by shape.
        textures: the same pictures, labelled by texture.
        without: source of training pictures whose texture says nothing, labelled by shape.
        model: architecture.
        model_parameters: of the architecture.
        seeds: networks of each kind.
        epochs: of each training.

    Returns:
        Two effects: the shape bias where both cues were learnt, and the gain by random textures.
    """
    by_shape, by_texture = load_data(shapes), load_data(textures)
    x = whole(by_shape).to(lab.setting.device)

    def measure(subject: Subject) -> dict[str, float]:
        decisions = subject.model.decisions(x).cpu().numpy()
        found = cue_conflict(decisions, by_shape.labels, by_texture.labels).iloc[0]
        counts = {name: int(found[name]) for name in ("n", "as_shape", "as_texture", "as_other")}
        return {**counts, "shape_bias": 100 * float(found["shape_bias"])}

    networks = {"both agree": {}, "random texture": {"data": load_data(without)}}
    common = {"objective": "standard", "model": model, "model_parameters": model_parameters, "epochs": epochs}
    rows = lab.table(networks, seeds, measure, **common)
    both, shape = (column(rows, "shape_bias", network=name) for name in networks)
    plot = Plot("networks", "bars", "network", "shape_bias", "seed", "Shape bias on conflicting cues, %")
    return Evidence({"shape_bias": mean(both), "gain": difference(shape, both)}, {"networks": rows}, (plot,))
