"""Foreground masks: exact on linear networks, the same on restricted ones, controls of equal area, files of every kind."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from doors import assert_three_parts
from robustscope.analyses.masks import mask_summary
from robustscope.attacks.compose import attack
from robustscope.core.draws import Draws
from robustscope.core.errors import BadFile, CorruptRun, InvalidValue, MissingFile
from robustscope.core.types import Bounds, ThreatModel
from robustscope.data.coco import polygon, run_lengths, segmentation
from robustscope.data.datasets import from_tensors, load_data
from robustscope.data.foreground_problems import digits_on_clutter
from robustscope.data.masks import KINDS, changed, load_masks, sampled, write_masked
from robustscope.models.classifier import Classifier
from robustscope.models.foreground import (
    carries_masks,
    gradient_inside,
    masked,
    masked_rows,
    saliency_masks,
    self_masked,
    with_masks,
)
from robustscope.models.loading import fingerprint
from robustscope.reports.masks import render_masks
from robustscope.runs import masks as runs_masks
from robustscope.runs.masks import ALL, evaluate_masks

GENERATOR = torch.Generator().manual_seed(5)
X = 0.3 + 0.4 * torch.rand(40, 2, 5, 4, generator=GENERATOR)
MASKS = torch.rand(40, 5, 4, generator=GENERATOR) < 0.4
MASKS[:, 0, 0] = True


ONE_STEP = {"steps": 1, "random_start": False, "relative_step_size": 1.0, "loss": "margin"}  # exact where all is linear


def linear(dtype=torch.float32, scale=1.0) -> tuple[Classifier, torch.Tensor]:
    """Return a classifier of two classes, and the difference of their weights (2, 5, 4)."""
    layer = nn.Linear(40, 2, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    layer.weight.data.copy_(scale * torch.randn(2, 40, generator=generator))
    layer.weight.data -= layer.weight.data.mean(1, keepdim=True)  # the mean of a picture says nothing
    layer.bias.data.zero_()
    return Classifier(nn.Sequential(nn.Flatten(), layer).eval()), (layer.weight[1] - layer.weight[0]).detach().view(
        2, 5, 4
    )


def network(seed=0) -> Classifier:
    module = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(120, 3)).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return Classifier(module.eval())


def ask(model, x):
    return model.gradient(lambda logits, rows: logits.logsumexp(1) - logits[:, 0], x)[1]


# Classifiers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_nothing_off_the_mask_has_a_gradient_or_an_effect(fill):
    model, x = network(), X.double()
    rows = masked_rows(model, fill=fill)
    gradient = ask(rows, with_masks(x, MASKS))
    assert (gradient[:, 2] == 0).all(), "the mask itself cannot be moved"
    assert (gradient[:, :2][~MASKS[:, None].expand(-1, 2, -1, -1)] == 0).all()
    assert (gradient[:, :2][MASKS[:, None].expand(-1, 2, -1, -1)] != 0).all()
    noise = torch.where(MASKS[:, None], 0.0, torch.rand(x.shape, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(rows.logits(with_masks(x + noise, MASKS)), rows.logits(with_masks(x, MASKS)))
    for i in range(3):
        one = masked(model, MASKS[i], fill=fill)
        assert torch.allclose(ask(one, x[i : i + 1])[0], gradient[i, :2], rtol=1e-12, atol=1e-14)
        background = torch.where(MASKS[i], x[i : i + 1], torch.tensor(fill).double())
        assert torch.equal(one.logits(x[i : i + 1]), model.logits(background))


def test_normalisation_comes_after_the_mask():
    module = nn.Sequential(nn.Flatten(), nn.Linear(40, 2)).eval()
    model = Classifier(module, mean=(0.5, 0.2), std=(0.3, 0.1))
    black = torch.where(MASKS[0], X[:1], 0.0)
    assert torch.equal(masked(model, MASKS[0]).logits(X[:1]), model.logits(black))


def test_masks_enter_the_fingerprint():
    model, _ = linear()
    marks = {fingerprint(masked(model, mask).module, bounds=(0, 1)) for mask in MASKS[:3]}
    marks |= {fingerprint(masked(model, MASKS[0], fill=0.5).module, bounds=(0, 1))}
    assert len(marks) == 4


@pytest.mark.parametrize("bounds", [Bounds(0.0, 1.0), Bounds(-1.0, 1.0), Bounds(0.0, 255.0)])
def test_a_carried_mask_survives_every_perturbation_below_half_the_range(bounds):
    assert carries_masks("linf", 0.49 * (bounds.upper - bounds.lower), bounds)
    assert not carries_masks("linf", 0.5 * (bounds.upper - bounds.lower), bounds)
    assert not carries_masks("l2", 0.1, bounds)
    module = nn.Sequential(nn.Flatten(), nn.Linear(40, 2)).eval()
    model = Classifier(module, bounds=bounds)
    x = with_masks(X, MASKS, bounds)
    moved = x.clone()
    moved[:, 2] += 0.49 * (bounds.upper - bounds.lower) * torch.where(MASKS, -1.0, 1.0)
    assert torch.equal(masked_rows(model).logits(moved), masked_rows(model).logits(x))


@pytest.mark.parametrize(
    "call",
    [
        lambda: masked(linear()[0], MASKS[0].float()),
        lambda: masked(linear()[0], MASKS[0], fill=1.5),
        lambda: masked_rows(linear()[0], fill=-1.0),
        lambda: masked_rows(linear()[0]).logits(torch.rand(2, 40)),
        lambda: with_masks(X, MASKS[:3]),
        lambda: saliency_masks(linear()[0], X, share=0.0),
        lambda: saliency_masks(linear()[0], X, smooth=2),
        lambda: changed("grown", MASKS, Draws(0, tuple(range(40)))),
        lambda: evaluate_masks(linear()[0], X, torch.zeros(40, dtype=torch.int64), None, "linf:0.1"),
        lambda: evaluate_masks(linear()[0], X, torch.zeros(40, dtype=torch.int64), MASKS, "linf:0.1", kinds=()),
        lambda: evaluate_masks(linear()[0], X, torch.zeros(40, dtype=torch.int64), MASKS, "linf:0.1", kinds=["all"]),
    ],
)
def test_faults_are_named(call):
    with pytest.raises(InvalidValue) as caught:
        call()
    assert_three_parts(caught.value)


# Robustness behind masks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "dual", "epsilon"), [("linf", 1, 0.02), ("l2", 2, 0.1)])
def test_the_robust_margin_of_a_linear_network_is_that_of_its_masked_weights(norm, dual, epsilon):
    model, weights = linear(torch.float64)
    x = X.double()
    y = (torch.arange(40) % 2).long()
    rows = evaluate_masks(model, x, y, MASKS, f"{norm}:{epsilon}", kinds=("none", *KINDS), method=("pgd", ONE_STEP))
    draws = Draws(0, tuple(range(40)), "masks")
    for kind in ("none", *KINDS):
        masks = torch.ones_like(MASKS) if kind == "none" else changed(kind, MASKS, draws)
        hidden = weights * masks[:, None]
        margin = torch.where(y == 1, 1, -1) * (hidden * x).flatten(1).sum(1)
        reach = epsilon * hidden.flatten(1).norm(dual, dim=1)
        assert (margin - reach).abs().min() > 1e-6, "no sample may lie on the edge"
        mine = rows[rows["kind"] == kind]
        assert mine["clean_correct"].tolist() == (margin > 0).tolist()
        assert mine["robust"].tolist() == (margin > reach).tolist()
        assert 3 < sum(mine["robust"]) < sum(mine["clean_correct"]), "the test decides something"
        assert mine["dimension"].tolist() == (2 * masks.flatten(1).sum(1)).tolist()


def test_a_mask_before_the_perturbation_leaks():
    """The wrong order, masked pictures of which the background may be perturbed too, must not pass for the right one."""
    model, weights = linear(torch.float64)
    y = (torch.arange(40) % 2).long()
    reach = 0.05 * (weights * MASKS[:, None]).abs().flatten(1).sum(1)
    margin = torch.where(y == 1, 1, -1) * (weights * MASKS[:, None] * X.double()).flatten(1).sum(1)
    leaky = attack("pgd", model, (X * MASKS[:, None]).double(), y, "linf:0.05", **ONE_STEP)
    wrong = (margin > 0) & ~leaky.verdict.success
    assert wrong.sum() < (margin > reach).sum()


def test_the_masked_attack_is_the_attack_on_the_masked_coordinates():
    model, mask = network(), MASKS[3]
    place = mask[None].expand(2, -1, -1).flatten().nonzero()[:, 0]

    class Restricted(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model.module

        def forward(self, z):
            return self.network(z.new_zeros(len(z), 40).index_copy(1, place, z).view(-1, 2, 5, 4))

    x = X.double()
    y = model.logits(torch.where(mask, x, 0.0)).argmax(1)
    options = {"steps": 12, "random_start": False, "loss": "cross_entropy"}
    whole = attack("pgd", masked(model, mask), x, y, "linf:0.01", **options)
    part = attack("pgd", Classifier(Restricted().eval()), x.flatten(1)[:, place], y, "linf:0.01", **options)
    assert torch.equal(whole.result.x_adv.flatten(1)[:, place], part.result.x_adv)
    assert torch.equal(whole.verdict.success, part.verdict.success)
    assert 3 < int(whole.verdict.success.sum()) < 40


def test_together_and_mask_by_mask_are_the_same(monkeypatch):
    model, x = network(), X.double()
    y = model.logits(x * MASKS[:, None]).argmax(1)
    arguments = (model, x, y, MASKS, "linf:0.08")
    options = {"kinds": KINDS, "method": ("pgd", {"steps": 8, "random_start": False})}
    together = evaluate_masks(*arguments, **options)
    monkeypatch.setattr(runs_masks, "carries_masks", lambda *_: False)
    pd.testing.assert_frame_equal(evaluate_masks(*arguments, **options), together)
    assert 0.1 < together["robust"].mean() < 0.9


@pytest.mark.parametrize("threat", ["linf:0.08", "l2:0.2"])
def test_rows_do_not_depend_on_the_cut(threat):
    model, x = network(), X.double()
    y = model.logits(x * MASKS[:, None]).argmax(1)
    options = {"kinds": ("none", "random", "shifted", "saliency"), "method": ("pgd", {"steps": 4})}
    whole = evaluate_masks(model, x, y, MASKS, threat, **options)
    parts = [
        evaluate_masks(model, x[s], y[s], MASKS[s], threat, draws=Draws(0, tuple(range(40))[s]), **options)
        for s in (slice(0, 7), slice(7, 40))
    ]
    joined = pd.concat(parts).sort_values(["kind", "sample"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(joined, whole.sort_values(["kind", "sample"]).reset_index(drop=True))


def test_the_attacked_saliency_mask_is_computed_from_the_perturbed_input():
    model, x = network(), X.double()
    whole = self_masked(model, share=0.3)
    own = saliency_masks(model, x, share=0.3)
    assert (own.flatten(1).sum(1) == 6).all()
    assert torch.equal(whole.logits(x), model.logits(x * own[:, None]))
    gradient = ask(whole, x)
    assert (gradient[~own[:, None].expand(-1, 2, -1, -1)] == 0).all()
    assert torch.equal(gradient, ask(masked_rows(model), with_masks(x, own))[:, :2])
    moved = x + 0.2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    assert not torch.equal(saliency_masks(model, moved, share=0.3), own)
    assert torch.equal(whole.logits(moved), model.logits(moved * saliency_masks(model, moved, share=0.3)[:, None]))
    y = whole.logits(x).argmax(1)
    rows = evaluate_masks(model, x, y, None, "linf:0.05", kinds=ALL[-2:], share=0.3, method=("pgd", {"steps": 5}))
    assert rows["dimension"].tolist() == [12] * 40 + [40] * 40
    assert rows["clean_correct"].all()


def test_the_saliency_of_a_linear_network_is_its_weights():
    model, weights = linear()
    best = set(weights.abs().sum(0).flatten().topk(5).indices.tolist())
    masks = saliency_masks(model, X, share=0.25, smooth=1)
    assert {tuple(sorted(mask.flatten().nonzero()[:, 0].tolist())) for mask in masks} == {tuple(sorted(best))}
    inside = gradient_inside(model, X, torch.zeros(40, dtype=torch.int64), MASKS)
    expected = (weights.square() * MASKS[:, None]).flatten(1).sum(1) / weights.square().sum()
    assert torch.allclose(inside, expected, atol=1e-6)
    assert torch.isfinite(gradient_inside(linear(scale=1e-25)[0], X, torch.zeros(40, dtype=torch.int64), MASKS)).all()


# Masks -----------------------------------------------------------------------------------------------------------------


def test_controls_have_the_area_of_the_mask_and_belong_to_samples():
    draws = Draws(4, tuple(range(100, 140)))
    for kind in ("random", "shifted"):
        found = changed(kind, MASKS, draws)
        assert torch.equal(found.flatten(1).sum(1), MASKS.flatten(1).sum(1))
        keep = torch.tensor([3, 17])
        assert torch.equal(changed(kind, MASKS[keep], draws.select(keep)), found[keep])
        assert not torch.equal(found, MASKS)
        assert not torch.equal(found, changed(kind, MASKS, Draws(5, draws.ids)))
    places = changed(
        "random",
        torch.ones(2000, 1, 3, 3, dtype=torch.bool)[:, 0] & (torch.arange(9).view(3, 3) < 2),
        Draws(0, tuple(range(2000))),
    )
    assert (places.float().mean(0) - 2 / 9).abs().max() < 0.04, "every pixel alike"
    grown = changed("dilated", MASKS, draws, pixels=1)
    for i, r, c in ((i, r, c) for i in range(5) for r in range(5) for c in range(4)):
        assert grown[i, r, c] == MASKS[i, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].any()
    assert torch.equal(changed("dilated", MASKS, draws, pixels=0), MASKS)


# What pycocotools 2.0 writes for random masks: height, width, its text, the bits of the mask row by row.
PYCOCOTOOLS = [
    (5, 7, "02200O03OM114ON0M0", "c9609b0b20"),
    (12, 9, "21211ON030M11O0010N00010O141LN0020O0O00110OO20N10030MO<2DO", "480aaac281f612828d6e802d2b10"),
]


@pytest.mark.parametrize(("height", "width", "text", "bits"), PYCOCOTOOLS)
def test_run_lengths_are_those_of_pycocotools(height, width, text, bits):
    expected = np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8))[: height * width].reshape(height, width) == 1
    for counts in (text, run_lengths(text)):
        assert (segmentation({"size": [height, width], "counts": counts}, height, width) == expected).all()
    with pytest.raises(BadFile, match="run lengths of") as caught:
        segmentation({"size": [height, width], "counts": text}, width, height)
    assert_three_parts(caught.value)


def test_polygons_hold_the_pixels_whose_centre_is_inside():
    square = polygon([2, 2, 8, 2, 8, 6, 2, 6], 10, 10)
    expected = np.zeros((10, 10), bool)
    expected[2:6, 2:8] = True
    assert (square == expected).all()
    triangle = polygon([1.3, 1.2, 9.1, 3.4, 4.2, 8.7], 10, 10)
    # pycocotools marks 29 pixels of it, its area is 26.2; all that differ touch the outline
    assert abs(triangle.sum() - 26.2) < 3
    assert triangle[3, 2:8].all()
    assert not triangle[:, 0].any()
    assert not triangle[0].any()
    both = segmentation([[2, 2, 8, 2, 8, 6, 2, 6], [0, 0, 1, 0, 1, 1, 0, 1]], 10, 10)
    assert both.sum() == expected.sum() + 1


@pytest.fixture
def pictures(tmp_path):
    """Four pictures of two classes, 8 x 6."""
    for i, name in enumerate(("cat/a", "cat/b", "dog/a", "dog/c")):
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 6, 3), 40 + i, np.uint8)).save(path)
    return load_data(f"folder:{tmp_path / 'pictures'}")


def test_masks_as_pictures(tmp_path, pictures):
    for i, name in enumerate(("cat/a", "b", "dog/a", "c")):
        path = tmp_path / "drawn" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((8, 6), np.uint8)
        mask[: i + 1] = 1 if i % 2 else 255
        picture = Image.fromarray(mask)
        (picture.convert("1") if i == 0 else picture).save(path)
    masks = load_masks(f"png:{tmp_path / 'drawn'}", pictures)
    assert masks.read([3, 0, 1]).flatten(1).sum(1).tolist() == [24, 6, 12]
    assert masks.fingerprint([0, 1]) != masks.fingerprint([1, 0])
    for wrong in (-1, 4):
        with pytest.raises(InvalidValue, match="0 to 3"):
            masks.read([wrong])
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(tmp_path / "drawn" / "b.png")
    with pytest.raises(BadFile, match="no foreground") as caught:
        masks.read([1])
    assert_three_parts(caught.value)
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(tmp_path / "drawn" / "b.png")
    with pytest.raises(BadFile, match="mode 'RGB'"):
        masks.read([1])
    (tmp_path / "drawn" / "c.png").unlink()
    with pytest.raises(BadFile, match=r"dog/c\.png") as caught:
        load_masks(f"png:{tmp_path / 'drawn'}", pictures)
    assert_three_parts(caught.value)


def test_masks_of_annotations(tmp_path, pictures):
    content = {
        "images": [{"id": i, "file_name": f"{n}.png", "height": 8, "width": 6} for i, n in enumerate("abc")],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 0, "category_id": 1, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]},
            {"image_id": 0, "category_id": 2, "segmentation": {"size": [8, 6], "counts": [40, 8]}},
            {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 6, 0, 6, 8, 0, 8]]},
            {"image_id": 2, "category_id": 1, "segmentation": [[0, 0, 6, 0, 6, 4, 0, 4]]},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    assert load_masks(f"coco:{path}", pictures).read(range(4)).flatten(1).sum(1).tolist() == [14, 48, 14, 24]
    assert load_masks(f"coco:{path}?category=cat", pictures).read([0]).sum() == 6
    with pytest.raises(BadFile, match="nothing about b"):
        load_masks(f"coco:{path}?category=dog", pictures)
    with pytest.raises(BadFile, match="no category 'cow'") as caught:
        load_masks(f"coco:{path}?category=cow", pictures)
    assert_three_parts(caught.value)
    path.write_text("{}")
    with pytest.raises(BadFile, match="KeyError") as caught:
        load_masks(f"coco:{path}", pictures)
    assert_three_parts(caught.value)


def test_regions_of_gtsrb(tmp_path, pictures):
    head = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
    for folder, rows in (
        ("cat", "a.ppm;12;16;2;4;9;11;0\nb.ppm;6;8;0;0;5;7;0\n"),
        ("dog", "a.ppm;6;8;1;1;4;6;1\nc.ppm;6;8;1;1;4;6;1\n"),
    ):
        (tmp_path / "rois" / folder).mkdir(parents=True)
        (tmp_path / "rois" / folder / f"GT-{folder}.csv").write_text(head + rows)
    masks = load_masks(f"gtsrb:{tmp_path / 'rois'}", pictures)
    assert masks.read(range(4)).flatten(1).sum(1).tolist() == [16, 48, 24, 24], (
        "the first is twice as large in the file"
    )
    assert masks.read([0])[0, 2:6, 1:5].all()
    round_ = load_masks(f"gtsrb:{tmp_path / 'rois'}?shape=ellipse", pictures).read([2])[0]
    # half axes 2 and 3 around (2.5, 3.5): the corners of the box fall away
    assert round_.int().tolist() == [
        [0] * 6,
        [0, 0, 1, 1, 0, 0],
        *[[0, 1, 1, 1, 1, 0]] * 4,
        [0, 0, 1, 1, 0, 0],
        [0] * 6,
    ]
    (tmp_path / "rois" / "dog").rename(tmp_path / "rois" / "cow")
    with pytest.raises(BadFile, match="nothing about a"):  # two files say a, and neither is that of the dog
        load_masks(f"gtsrb:{tmp_path / 'rois'}", pictures)
    one = tmp_path / "rois" / "cat" / "GT-cat.csv"
    with pytest.raises(BadFile, match="nothing about c"):
        load_masks(f"gtsrb:{one}", pictures)
    one.write_text("Filename,Width\na.ppm,3\n")
    with pytest.raises(BadFile, match="GTSRB's columns") as caught:
        load_masks(f"gtsrb:{one}", pictures)
    assert_three_parts(caught.value)


def test_masks_are_cut_as_their_pictures_are(tmp_path):
    place = tmp_path / "n00000001"
    place.mkdir()
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, 8:] = 255
    Image.fromarray(picture).save(place / "a.png")
    (tmp_path / "list.txt").write_text("n00000001\n")
    data = load_data(f"wnids:{tmp_path},{tmp_path / 'list.txt'}?resize=8&crop=6")
    (tmp_path / "m").mkdir()
    Image.fromarray(picture[..., 0]).save(tmp_path / "m" / "a.png")
    mask = load_masks(f"png:{tmp_path / 'm'}", data).read([0])[0]
    assert torch.equal(mask, data.read([0])[0, 0] >= 0.5)
    assert not mask.all()


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("bmp:masks", InvalidValue, "png:FOLDER"),
        ("png:nowhere", MissingFile, "nowhere"),
        ("png:.?shape=box", InvalidValue, "shape=box"),
        ("gtsrb:pictures", BadFile, "no region"),
        ("gtsrb:pictures?shape=star", InvalidValue, "star"),
        ("npy:few.npy", BadFile, "shape"),
    ],
)
def test_faults_of_masks_are_named(tmp_path, monkeypatch, pictures, spec, error, says):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.ones((3, 8, 6), bool))
    with pytest.raises(error, match=says) as caught:
        load_masks(spec, pictures)
    assert_three_parts(caught.value)


def test_annotations_by_name_want_files(tmp_path):
    data = from_tensors(torch.rand(2, 3, 8, 6), [0, 1])
    (tmp_path / "a.csv").write_text("Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2\na.ppm;6;8;1;1;4;6\n")
    with pytest.raises(InvalidValue, match="file name") as caught:
        load_masks(f"gtsrb:{tmp_path / 'a.csv'}", data)
    assert_three_parts(caught.value)


def test_sampling_takes_the_value_at_each_centre():
    mask = np.random.default_rng(0).random((9, 12)) < 0.5
    assert (sampled(mask, (9, 12)) == mask).all()
    assert (sampled(mask, (3, 4)) == mask[1::3, 1::3]).all()
    assert (sampled(mask, (18, 24)) == mask.repeat(2, 0).repeat(2, 1)).all()


@pytest.mark.parametrize("stored", ["bytes", "floats"])
def test_masked_data_are_a_data_source(tmp_path, stored):
    x = torch.rand(30, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    if stored == "bytes":
        x = (x * 255).byte()
    data = from_tensors(x, torch.arange(30) % 3)
    np.save(tmp_path / "m.npy", np.random.default_rng(1).random((30, 8, 6)) < 0.5)
    masks = load_masks(f"npy:{tmp_path / 'm.npy'}", data)
    ids = list(range(29, 3, -2))
    out = write_masked(data, masks, tmp_path / "out", ids)
    again = load_data(f"npy:{out}")
    assert torch.equal(again.read(range(len(ids))), data.read(ids) * masks.read(ids)[:, None])
    assert again.labels.tolist() == data.labels[ids].tolist()
    assert torch.equal(load_masks(f"npy:{out / 'masks.npy'}", again).read(range(len(ids))), masks.read(ids))
    assert json.loads((out / "facts.json").read_text())["kind"] == "foreground"
    with pytest.raises(InvalidValue, match="other files") as caught:
        write_masked(data, masks, out)
    assert_three_parts(caught.value)
    control = load_data(f"npy:{write_masked(data, masks, tmp_path / 'control', kind='random')}")
    kept = changed("random", masks.read(range(30)), Draws(0, tuple(range(30)), "masks"))
    assert torch.equal(control.read(range(30)), data.read(range(30)) * kept[:, None])


# Summaries -------------------------------------------------------------------------------------------------------------


def summary_rows() -> pd.DataFrame:
    cells = {"none": ("1111", "0100"), "foreground": ("1110", "1110"), "random": ("1101", "1000")}
    parts = [
        pd.DataFrame(
            {
                "kind": kind,
                "sample": range(4),
                "share": 1.0 if kind == "none" else 0.25,
                "dimension": 48 if kind == "none" else 12,
                "clean_correct": [c == "1" for c in clean],
                "robust": [c == "1" for c in robust],
            }
        )
        for kind, (clean, robust) in cells.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_the_summary_by_hand():
    none, foreground, random = mask_summary(summary_rows())
    assert [row["robust"]["value"] for row in (none, foreground, random)] == [0.25, 0.75, 0.25]
    assert [row["clean"]["value"] for row in (none, foreground, random)] == [1.0, 0.75, 0.75]
    assert (foreground["share"], foreground["dimension"]) == (0.25, 12)
    assert (none["gain"]["value"], foreground["gain"]["value"], random["gain"]) == (0.0, 0.5, None)
    assert foreground["gain"]["low"] < 0.5 < foreground["gain"]["high"]
    text = render_masks(mask_summary(summary_rows()), "a|b")
    assert "| foreground | 25.0\xa0% | 12 | 75.0\xa0% (3/4;" in text
    assert "Caution" not in text
    assert "Caution" in render_masks(mask_summary(summary_rows().replace("none", "saliency")), "title")


def test_faults_of_rows_are_named():
    for rows, error in (
        (summary_rows()[:0], InvalidValue),
        (summary_rows().drop(columns="share"), InvalidValue),
        (summary_rows()[1:], CorruptRun),
    ):
        with pytest.raises(error) as caught:
            mask_summary(rows)
        assert_three_parts(caught.value)


def test_a_radius_for_each_sample_goes_along():
    model, x = network(), X.double()
    y = model.logits(x * MASKS[:, None]).argmax(1)
    threat = ThreatModel("linf", tuple(0.2 * (i % 2) for i in range(40)))
    rows = evaluate_masks(model, x, y, MASKS, threat, kinds=("foreground",), method=("pgd", {"steps": 5}))
    assert rows["robust"][::2].all()
    assert not rows["robust"][1::2].all()


# Digits on clutter -----------------------------------------------------------------------------------------------------


def test_digits_on_clutter_are_where_their_masks_say():
    data = load_data("digits#test")
    x, y, masks = digits_on_clutter(jitter=3, size=17)
    assert y.tolist() == data.labels.tolist()
    assert torch.equal(torch.stack([x[i, 0][masks[i]] for i in range(len(x))]).view(-1, 1, 8, 8), data.read(range(500)))
    assert x[:, 0][~masks].max() <= 0.5, "clutter is dimmed"
    assert x[:, 0][~masks].mean() > 0.1, "and there"
    ink = digits_on_clutter(jitter=3, size=17, outline="ink")[2]
    assert torch.equal(ink, masks & (x[:, 0] > 0.3))
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in masks}) == 49
    with pytest.raises(InvalidValue, match="jitter=5") as caught:
        digits_on_clutter(jitter=5)
    assert_three_parts(caught.value)
