"""Writers of tiny data sets in every format that the data room reads."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from PIL import Image


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random bytes (count, *shape)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def classes(count: int, of: int) -> np.ndarray:
    """Labels that go round, (count,)."""
    return np.arange(count) % of


def idx_bytes(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, prefix: str, x: np.ndarray, y: np.ndarray, gz: bool = False) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for name, array in ((f"{prefix}-images-idx3-ubyte", x), (f"{prefix}-labels-idx1-ubyte", y)):
        body = idx_bytes(array)
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(body) if gz else body)
    return folder


def records(x: np.ndarray, *labels: np.ndarray) -> bytes:
    """CIFAR records: the label bytes, then the pixels."""
    columns = [np.asarray(y, np.uint8)[:, None] for y in labels]
    return np.concatenate([*columns, x.reshape(len(x), -1)], axis=1).tobytes()


def batch(x: np.ndarray, y: np.ndarray, key: str = "labels", protocol: int = 2, as_bytes: bool = True) -> bytes:
    """A Python batch as CIFAR's."""
    content = {"batch_label": "one", key: [int(v) for v in y], "data": x.reshape(len(x), -1)}
    wanted = {k.encode(): v for k, v in content.items()} if as_bytes else content
    return pickle.dumps(wanted, protocol=protocol)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    mode: Any = f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode) as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return path


def write_pictures(root: Path, x: np.ndarray, y: Sequence[int] | np.ndarray, names: list[str]) -> Path:
    """PNG files (n, C, H, W), numbered within their class folder."""
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0) if len(image) == 3 else image[0]).save(folder / f"{i:04}.png")
    return root


def png(image: np.ndarray) -> bytes:
    """One picture (C, H, W) as PNG bytes."""
    out = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0) if len(image) == 3 else image[0]).save(out, "png")
    return out.getvalue()


def write_parquet(path: Path, rows: list[tuple], columns: str, names: list[str] | None = None) -> Path:
    """Parquet file of ``rows`` with ``columns`` as in CREATE TABLE; row groups of 2048."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t ({columns})")
        for row in rows:
            connection.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(row))})", list(row))
        facts = json.dumps({"info": {"features": {"label": {"names": names}}}}).replace("'", "''")
        extra = f", KV_METADATA {{huggingface: '{facts}'}}" if names else ""
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 2048{extra})")
    return path


# One set of samples in every container: each function writes it and returns its specification.

N, CLASSES = 12, 3
X, Y = pixels(N, 3, 32, 32), np.sort(classes(N, CLASSES))
NAMES = ["ant", "bee", "cow"]
CIFAR = "cifar-10-batches-bin/"


def as_npz(t):
    np.savez(t / "set.npz", x=X, y=Y)
    return f"npz:{t / 'set.npz'}"


def as_npz_last(t):
    np.savez_compressed(t / "set.npz", test_images=X.transpose(0, 2, 3, 1), test_labels=Y[:, None])
    return f"npz:{t / 'set.npz'}#test"


def as_npy(t):
    np.save(t / "x.npy", X)
    np.save(t / "y.npy", Y)
    return f"npy:{t}"


def as_npy_fortran(t):
    np.save(t / "images.npy", np.asfortranarray(X))
    np.save(t / "labels.npy", Y.astype(">i2"))
    return f"npy:{t}"


def as_folder(t):
    return f"folder:{write_pictures(t / 'pictures', X, Y, NAMES)}"


def as_split_folder(t):
    write_pictures(t / "train", X[:3], np.arange(3), NAMES)
    write_pictures(t / "test", X, Y, NAMES)
    return f"folder:{t}"


def as_parquet_pictures(t):
    rows = [({"bytes": png(x), "path": "p"}, int(y)) for x, y in zip(X, Y, strict=True)]
    columns = "image STRUCT(bytes BLOB, path VARCHAR), label BIGINT"
    write_parquet(t / "data" / "train-00000-of-00001.parquet", rows[:2], columns)
    write_parquet(t / "data" / "test-00000-of-00002.parquet", rows[:5], columns, NAMES)
    write_parquet(t / "data" / "test-00001-of-00002.parquet", rows[5:], columns, NAMES)
    return f"parquet:{t}"


def as_parquet_lists(t):
    rows = [(int(y), x.ravel().tolist()) for x, y in zip(X, Y, strict=True)]
    file = write_parquet(t / "a.parquet", rows, 'class INTEGER, "my pixels" UTINYINT[]')
    return f"parquet:{file}?x=my pixels&shape=3,32,32"


def as_record_file(t):
    (t / "some.bin").write_bytes(records(X, Y))
    return f"cifar10:{t / 'some.bin'}"


def as_binary_folder(t):
    (t / CIFAR).mkdir()
    (t / CIFAR / "test_batch.bin").write_bytes(records(X, Y))
    return f"cifar10:{t}"


def as_python_folder(t):
    (t / "test_batch").write_bytes(batch(X, Y))
    return f"cifar10:{t}#test"


def as_binary_archive(t):
    other = records(X[:1], Y[:1])
    members = {CIFAR + "data_batch_1.bin": other, CIFAR + "test_batch.bin": records(X, Y)}
    return f"cifar10:{write_tar(t / 'c.tar.xz', members)}"


def as_python_archive(t):
    return f"cifar10:{write_tar(t / 'c.tar.gz', {'cifar-10-batches-py/test_batch': batch(X, Y)})}"


def as_cifar100(t):
    (t / "test.bin").write_bytes(records(X, np.full(N, 19), Y))
    return f"cifar100:{t}"


def as_cifar100_python(t):
    (t / "test").write_bytes(batch(X, Y, key="fine_labels"))
    return f"cifar100:{t}"


CONTAINERS = [
    as_npz, as_npz_last, as_npy, as_npy_fortran, as_folder, as_split_folder, as_parquet_pictures, as_parquet_lists, as_record_file,
    as_binary_folder, as_python_folder, as_binary_archive, as_python_archive, as_cifar100, as_cifar100_python,
]  # fmt: skip
