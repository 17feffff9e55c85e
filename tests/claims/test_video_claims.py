"""gu2019 and shankar2019 on a square that moves, judged by where it is."""

import pytest

from robustscope.claims import CLAIMS, Lab, Setting, Subject
from robustscope.claims import gu2019 as gu
from robustscope.claims import shankar2019 as shankar
from robustscope.data.video_problems import EdgeJudge, moving_squares
from robustscope.models.classifier import Classifier


@pytest.mark.parametrize("module", [gu, shankar])
@pytest.mark.parametrize(
    ("edges", "expected"),
    [((5.0, 5.0), "supported"), ((8.0, 8.0), "contradicted")],
)
def test_a_judge_whose_edge_is_in_the_wrong_place_errs_on_the_way(module, edges, expected, tmp_path, monkeypatch):
    """The square stays left of the middle, and after seven frames has passed an edge that stands too far left."""
    films = moving_squares([3, 3], [0.08, 0.08])
    judges = [Subject(str(i), Classifier(EdgeJudge(edge)), "") for i, edge in enumerate(edges)]
    monkeypatch.setattr(module, "videos", lambda lab, batch: {"squares": films})
    monkeypatch.setattr(module, "standard", lambda lab, seeds, **changes: judges)
    card = CLAIMS[module.__name__.rpartition(".")[2]]
    found = card.function(Lab(tmp_path, Setting("digits", "digits")), **card.resolve(card.quick))
    assert card.judge(found.effects)[0] == expected
