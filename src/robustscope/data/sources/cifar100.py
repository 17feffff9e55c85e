"""CIFAR-100, fine labels."""

from __future__ import annotations

from robustscope.data.base import Dataset
from robustscope.data.cifar_files import Layout, read_cifar
from robustscope.data.datasets import SOURCES

_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
FINE_NAMES = tuple(_NAMES.split())

LAYOUT = Layout(
    name="cifar100",
    class_names=FINE_NAMES,
    label_bytes=2,
    binary={"train": ("train.bin",), "test": ("test.bin",)},
    pickled={"train": ("train",), "test": ("test",)},
    folders=("cifar-100-binary", "cifar-100-python"),
    label_key="fine_labels",
)


@SOURCES.register(
    "cifar100",
    version=1,
    source="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    example="cifar100:FOLDER-or-RECORD-FILE#test",
    splits=("train", "test"),
)
def cifar100(path: str, split: str) -> Dataset:
    """Read CIFAR-100 with its 100 fine classes, in its binary or its Python layout.

    Args:
        path: the folder, the folder above it, a file of binary records, or a tar archive of the folder.
        split: "test" (default) or "train"; none for a file of records.

    Raises:
        MissingFile, BadFile, UnsafeFile: if the files cannot be read, or not without running code.
    """
    return read_cifar(LAYOUT, path, split)
