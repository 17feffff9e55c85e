"""Corrupted copies in files: what is written is what ``corrupt`` returns, whoever writes it and however often it is killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from doors import assert_three_parts, command
from robustscope.core.draws import Draws
from robustscope.core.errors import InvalidValue, StoreError
from robustscope.corruptions import corrupt
from robustscope.data.datasets import from_tensors, load_data
from robustscope.runs import corrupted
from robustscope.runs.corrupted import Request, Writer, class_folders, write_corrupted
from robustscope.runs.engines import local

NAMES = ("plane", "Car", "bird/fly")
COUNT = 10


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """Ten colour pictures of three classes."""
    path = tmp_path_factory.mktemp("corrupted") / "set.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 16, 12), dtype=np.uint8)
    np.savez(path, x=pixels, y=np.arange(COUNT) % 3)
    return f"npz:{path}"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def request_of(source: str, **other) -> Request:
    return Request(source, ("gaussian_noise", "contrast"), **other)


def test_the_pictures_of_a_folder_are_those_of_corrupt(source, tmp_path):
    manifest = write_corrupted(Writer(request_of(source, seed=3), tmp_path / "c"))
    data = load_data(source)
    order = np.argsort(data.labels, kind="stable")  # the folders hold one class after the other
    for name in ("gaussian_noise", "contrast"):
        for severity in (1, 5):
            there = load_data(f"folder:{tmp_path / 'c' / name / str(severity)}")
            made = corrupt(name, data.read(order), severity, draws=Draws(3, tuple(order.tolist())))
            assert torch.equal(there.read(range(COUNT)), made)
            assert there.labels.tolist() == data.labels[order].tolist()
    assert (manifest["count"], manifest["constants"], len(manifest["parts"])) == (COUNT, "cifar-10-c", 10)
    assert manifest["fingerprint"] == data.fingerprint()


def test_jpeg_is_of_the_quality_of_imagenet_c(source, tmp_path):
    write_corrupted(Writer(Request(source, ("contrast",), samples="0:6", format="jpeg"), tmp_path / "c"))
    there = tmp_path / "c" / "contrast" / "2" / "1" / "4.jpeg"
    png = corrupt("contrast", load_data(source).read([4]), 2)[0]
    picture = Image.fromarray((png * 255).round().byte().permute(1, 2, 0).numpy())
    picture.save(tmp_path / "own.jpeg", quality=85)
    with Image.open(there) as found, Image.open(tmp_path / "own.jpeg") as own:
        assert found.format == "JPEG"
        assert (np.asarray(found) == np.asarray(own)).all()


def test_the_lists_are_those_of_sha256sum(source, tmp_path):
    import hashlib

    manifest = write_corrupted(Writer(Request(source, ("contrast",)), tmp_path))
    for part in manifest["parts"]:
        folder = tmp_path / part["corruption"] / str(part["severity"])
        listed = (folder / "SHA256SUMS").read_bytes()
        assert hashlib.sha256(listed).hexdigest() == part["SHA256SUMS"]
        rows = [line.split("  ", 1) for line in listed.decode().splitlines()]
        assert len(rows) == COUNT
        for digest, name in rows:
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_a_request_that_was_stopped_anywhere_ends_in_the_same_files(source, tmp_path, monkeypatch):
    monkeypatch.setattr(corrupted, "ROWS", 3)
    request = request_of(source)
    whole = tmp_path / "whole"
    write_corrupted(Writer(request, whole))
    real, left = corrupted.write_atomically, [0]

    def failing(path, write, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(path, write, **options)

    monkeypatch.setattr(corrupted, "write_atomically", failing)
    broken, stops = tmp_path / "broken", 0
    for after in (0, 1, 7, 2, 11, 30, 1000):
        left[0] = after
        try:
            write_corrupted(Writer(request, broken))
        except KeyboardInterrupt:
            stops += 1
            assert not (broken / "manifest.json").exists()
    assert stops == 6
    assert tree(broken) == tree(whole)


def test_files_that_are_torn_or_missing_are_written_again(source, tmp_path):
    request = Request(source, ("contrast",))
    write_corrupted(Writer(request, tmp_path))
    before = tree(tmp_path)
    part = tmp_path / "contrast" / "3"
    (part / "0" / "3.png").unlink()
    torn = part / "1" / "4.png"
    torn.write_bytes(torn.read_bytes()[:-20])
    (part / "1" / "4.png.99.part").write_bytes(b"left over")
    moved: list[int] = []
    write_corrupted(Writer(request, tmp_path), report=moved.append)
    assert sum(moved) == COUNT, "the other parts are not looked at again"
    assert tree(tmp_path) == before


KILLED = """
import os, sys
from pathlib import Path
from robustscope.runs import corrupted
corrupted.ROWS = 2
real, count = corrupted.write_atomically, [0]
def dying(path, write, **options):
    count[0] += 1
    if count[0] == 9:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".1.part").write_bytes(b"half")
        os.kill(os.getpid(), 9)
    real(path, write, **options)
corrupted.write_atomically = dying
corrupted.write_corrupted(corrupted.Writer(corrupted.Request(sys.argv[1], ("contrast",)), Path(sys.argv[2])))
"""


def test_kill_and_processes_change_no_byte(source, tmp_path):
    """One folder by a process that is killed, then by two workers; another by this process."""
    done = subprocess.run([sys.executable, "-c", KILLED, source, str(tmp_path / "a")], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert 0 < len(list((tmp_path / "a").rglob("*.png"))) < 5 * COUNT
    write_corrupted(Writer(Request(source, ("contrast",)), tmp_path / "a"), workers=2)
    write_corrupted(Writer(Request(source, ("contrast",)), tmp_path / "b"))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_worker_that_dies_is_an_error_in_three_parts(source, tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool

    class Broken:
        def __init__(self, *_):
            pass

        def submit(self, *_):
            raise BrokenProcessPool

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(local, "ProcessPoolExecutor", Broken)
    with pytest.raises(StoreError, match="fewer workers") as caught:
        write_corrupted(Writer(Request(source, ("contrast",)), tmp_path), workers=2)
    assert_three_parts(caught.value)


def test_another_request_or_other_files_are_refused(source, tmp_path):
    write_corrupted(Writer(Request(source, ("contrast",), samples="0:3"), tmp_path / "c"))
    for other in (
        Request(source, ("contrast",), samples="0:3", seed=1),
        Request(source, ("fog",), samples="0:3"),
        Request(source, ("contrast",), samples="0:3", format="jpeg"),
    ):
        with pytest.raises(InvalidValue, match="another folder") as caught:
            write_corrupted(Writer(other, tmp_path / "c"))
        assert_three_parts(caught.value)
    with pytest.raises(InvalidValue, match="holds other files"):
        write_corrupted(Writer(Request(source, ("contrast",)), tmp_path))


def test_what_is_no_suite_or_no_picture_is_refused(source, tmp_path):
    vectors = tmp_path / "vectors.npz"
    np.savez(vectors, x=np.zeros((4, 9), np.uint8), y=np.arange(4) % 2)
    for request, match in (
        (Request(source, ("fogg",)), "Did you mean 'fog'"),
        (Request(source, ("imagenet-c", "fog")), "different corruptions"),
        (Request(source, ("fog", "fog")), "different corruptions"),
        (Request(f"npz:{vectors}"), "pictures"),
        (Request(source, samples="0:2"), "1 of the 3 classes"),
    ):
        with pytest.raises(InvalidValue, match=match) as caught:
            Writer(request, tmp_path / "c")
        assert_three_parts(caught.value)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("ant", "bee", "cat"), ["ant", "bee", "cat"]),
        (("bee", "ant", "cat"), ["0_bee", "1_ant", "2_cat"]),
        (NAMES, ["0_plane", "1_Car", "2_bird_fly"]),
        (("test", "train", "val"), ["0_test", "1_train", "2_val"]),
        (None, ["0", "1", "2"]),
        (("..", "a", "b"), ["0_", "1_a", "2_b"]),
    ],
)
def test_folders_sort_as_the_classes_do(names, folders):
    data = from_tensors(torch.zeros(3, 3, 4, 4), [0, 1, 2], class_names=names)
    assert list(class_folders(data, range(3)).values()) == folders == sorted(folders)


def test_more_than_ten_classes_without_names_keep_their_order():
    data = from_tensors(torch.zeros(12, 3, 4, 4), list(range(12)))
    found = list(class_folders(data, range(12)).values())
    assert found == sorted(found) == [f"{k:02d}" for k in range(12)]


def test_the_command_writes_and_resumes(source, tmp_path):
    tokens = ("corrupt", source, tmp_path / "c", "--suite", "contrast", "--suite", "fog", "--workers", "1")
    code, out, err = command(*tokens)
    assert code == 0, err
    assert "10 pictures of set x 10 (corruption, severity), at the constants of cifar-10-c" in out
    assert "100/100" in err
    code, out, err = command(*tokens, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["count"] == COUNT
    for wrong in (("--suite", "fogg"), ("--workers", "0"), ("--constants", "imagenet-d"), ("--format", "gif")):
        code, _, err = command("corrupt", source, tmp_path / "d", *wrong)
        assert (code, err[:6]) == (2, "error:")
