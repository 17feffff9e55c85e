"""croce2020 and tramer2020 in worlds where their findings are true and false."""

from types import SimpleNamespace

import pytest
import torch

from robustscope.attacks.comparison import Line
from robustscope.claims import CLAIMS, Lab, Setting
from robustscope.claims import tramer2020 as tramer
from robustscope.data.masked import MASKED, Mask

SETTING = Setting("digits", "digits")


def verdict(name, lab, **changes):
    card = CLAIMS[name]
    return card.judge(card.function(lab, **card.resolve({**card.quick, **changes})).effects)[0]


def test_only_a_mask_that_hides_something_makes_pgd_overestimate(tmp_path, monkeypatch):
    monkeypatch.setitem(MASKED, "open", Mask(lambda n: n, lambda n: n, True, "nothing"))
    lab = Lab(tmp_path, SETTING)
    assert verdict("croce2020", lab) == "supported"
    assert verdict("croce2020", lab, masks=("open",)) == "contradicted"


@pytest.mark.parametrize(
    ("bare", "oblivious", "adapted", "expected"),
    [
        (2, 12, 3, "inconclusive"),  # 6.7 points are left over the bare network
        (2, 12, 2, "supported"),
        (2, 12, 12, "contradicted"),  # the defence works
        (2, 2, 2, "contradicted"),  # it never seemed to add anything
    ],
)
def test_a_defence_that_withstands_adapted_attacks_contradicts(
    bare, oblivious, adapted, expected, tmp_path, monkeypatch
):
    def compare(subjects, x, y, threat, **asked):
        def line(name, view, count):
            left = torch.arange(len(y)) < count
            return Line(name, view, "pgd", torch.ones(len(y), dtype=torch.bool), left, 0)

        lines = [line("none", "gradient", bare)]
        for name in subjects:
            lines += [line(name, "oblivious", oblivious), line(name, "bpda", adapted)] if name != "none" else []
        return lines

    monkeypatch.setattr(tramer, "compare", compare)
    monkeypatch.setattr(Lab, "network", lambda self, seed, **how: SimpleNamespace(model=None))
    assert verdict("tramer2020", Lab(tmp_path, SETTING)) == expected
