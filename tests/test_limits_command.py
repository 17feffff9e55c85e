"""``robustscope limits`` against the functions behind it."""

import json

import numpy as np
import pytest
import torch

from doors import command
from robustscope.data.datasets import load_data
from robustscope.limits.separation import separation
from robustscope.limits.transport import transport


def test_it_says_what_the_functions_say():
    code, out, err = command("limits", "digits", "--norm", "l2", "--classes", "3,9", "--epsilons", "0.5,1,2", "--json")
    assert code == 0, err
    found = json.loads(out)
    data = load_data("digits")
    rows = [i for i in range(len(data)) if data.labels[i] in (3, 9)]
    x, y = data.read(rows), torch.as_tensor(data.labels[rows])
    apart, bound = separation(x, y, norm="l2"), transport(x, y, norm="l2", epsilons=(0.5, 1, 2))
    assert (found["n"], found["searched"], found["classes"]) == (len(rows), len(rows), 2)
    assert found["smallest"] == apart.smallest == found["closest"][0]["distance"]
    assert [row["loss"] for row in found["radii"]] == bound.loss.tolist()
    assert [row["separated"] for row in found["radii"]] == [apart.separated(e) for e in (0.5, 1, 2)]
    assert found["closest"][0]["sample"] in rows


def test_radii_of_its_own_begin_where_the_data_touch(tmp_path):
    x = np.array([[0.0], [0.1], [0.5], [1.0]], dtype=np.float32)
    np.savez(tmp_path / "set.npz", x=x, y=np.array([0, 1, 0, 1]))
    code, out, err = command("limits", f"npz:{tmp_path / 'set.npz'}", "--json")
    assert code == 0, err
    radii = json.loads(out)["radii"]
    assert [row["epsilon"] for row in radii] == pytest.approx([0.05, 0.2])  # half of 0.1 and of 0.4
    assert [row["loss"] for row in radii] == [0.25, 0.25]  # the second sample is in both pairs that touch
    code, out, _ = command("limits", f"npz:{tmp_path / 'set.npz'}")
    assert code == 0
    assert "every classifier loses at least" in " ".join(out.split())


def test_another_set_can_be_searched():
    code, out, _ = command("limits", "digits", "--against", "digits#train", "--samples", "40", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["n"], found["searched"]) == (40, len(load_data("digits#train")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--classes", "3"), "two or more numbers"),
        (("--classes", "30,31"), "classes that occur"),
        (("--epsilons", "wide"), "numbers separated by commas"),
        (("--epsilons", "-1"), "epsilon"),
    ],
)
def test_bad_requests_are_refused(options, words):
    code, _, err = command("limits", "digits", *options)
    assert code == 2
    assert words in err
