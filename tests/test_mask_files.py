"""Masks and their files: controls of equal area, pictures, arrays, COCO and GTSRB, masked data as a source."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from doors import assert_three_parts
from robustscope.core.draws import Draws
from robustscope.core.errors import BadFile, InvalidValue, MissingFile
from robustscope.data.coco import polygon, run_lengths, segmentation
from robustscope.data.datasets import from_tensors, load_data
from robustscope.data.foreground_problems import digits_on_clutter
from robustscope.data.masks import changed, load_masks, sampled, write_masked

GENERATOR = torch.Generator().manual_seed(5)
MASKS = torch.rand(40, 5, 4, generator=GENERATOR) < 0.4
MASKS[:, 0, 0] = True


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
    # two pictures of one name in two folders are told apart by the folder, and without it by nothing
    whole, half = content["annotations"][2], content["annotations"][3]
    two = [
        {"id": i, "file_name": f"{n}.png", "height": 8, "width": 6} for i, n in enumerate(("cat/a", "dog/a", "b", "c"))
    ]
    shown = [{**one, "image_id": i} for i, one in enumerate((whole, half, whole, half))]
    path.write_text(json.dumps({"images": two, "annotations": shown}))
    assert load_masks(f"coco:{path}", pictures).read(range(4)).flatten(1).sum(1).tolist() == [48, 48, 24, 24]
    two[1]["file_name"] = "cow/a.png"
    path.write_text(json.dumps({"images": two, "annotations": shown}))
    with pytest.raises(BadFile, match="nothing about a"):
        load_masks(f"coco:{path}", pictures)
    two[1]["file_name"] = "dog/a.png"
    path.write_text(json.dumps({"images": two, "annotations": [{**one, "segmentation": []} for one in shown]}))
    with pytest.raises(BadFile, match="no foreground"):  # boxes alone
        load_masks(f"coco:{path}", pictures).read([2])
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
