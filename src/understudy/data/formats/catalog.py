"""Built-in datasets: scikit-learn's digits and torchvision's classification datasets."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from understudy.data.formats.index import SplitName

_Splits = Mapping[SplitName, Mapping[str, object]]

_TRAIN_TEST: _Splits = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL_TEST: _Splits = {**_TRAIN_TEST, "validation": {"split": "val"}}
_TRAIN_FLAG: _Splits = {"train": {"train": True}, "test": {"train": False}}
TRAIN_ONLY: _Splits = {"train": {}}


@dataclass(frozen=True)
class NamedSet:
    """A built-in dataset."""

    about: str
    classes: int  # 0 if unlabeled
    examples: tuple[int, ...] = ()  # in train, test and validation; a single number if there are no official splits
    kind: str = ""  # class in `torchvision.datasets`; empty for scikit-learn's digits
    folder: str = ""  # file or folder that torchvision expects in the root
    splits: _Splits = field(default_factory=lambda: _TRAIN_TEST)  # constructor arguments; one split is divided 80/20
    names: tuple[str, ...] = ()  # class names, if torchvision has none
    prefix: str = ""  # of the file names in the MNIST family
    first_label: int = 0
    downloadable: bool = True

    def is_in(self, root: Path, name: str) -> bool:
        """Whether its files are in a folder, or in one of its name below that; digits are everywhere."""
        return not self.folder or any((at / self.folder).exists() for at in (root, root / name))


_DIGITS = tuple(string.digits)
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_BALANCED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
_FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

NAMED: Mapping[str, NamedSet] = {
    "digits": NamedSet("handwritten digits, 8x8, included in scikit-learn", 10, (1_797,)),
    "mnist": NamedSet("handwritten digits, 28x28", 10, (60_000, 10_000), "MNIST", "MNIST/raw", _TRAIN_FLAG, _DIGITS),
    "fashion-mnist": NamedSet(
        "clothes, 28x28", 10, (60_000, 10_000), "FashionMNIST", "FashionMNIST/raw", _TRAIN_FLAG, _CLOTHES,
    ),
    "kmnist": NamedSet(
        "cursive Japanese characters, 28x28", 10, (60_000, 10_000), "KMNIST", "KMNIST/raw", _TRAIN_FLAG,
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "emnist": NamedSet(
        "handwritten digits and letters, balanced, 28x28", 47, (112_800, 18_800), "EMNIST", "EMNIST/raw",
        {split: {**flag, "split": "balanced"} for split, flag in _TRAIN_FLAG.items()}, _BALANCED, "emnist-balanced-",
    ),
    "emnist-letters": NamedSet(
        "handwritten letters, 28x28", 26, (124_800, 20_800), "EMNIST", "EMNIST/raw",
        {split: {**flag, "split": "letters"} for split, flag in _TRAIN_FLAG.items()}, tuple(string.ascii_lowercase),
        "emnist-letters-", first_label=1,
    ),
    "usps": NamedSet(
        "handwritten digits from envelopes, 16x16", 10, (7_291, 2_007), "USPS", "usps.bz2", _TRAIN_FLAG, _DIGITS,
    ),
    "semeion": NamedSet("handwritten digits, 16x16", 10, (1_593,), "SEMEION", "semeion.data", TRAIN_ONLY, _DIGITS),
    "cifar10": NamedSet("objects, 32x32", 10, (50_000, 10_000), "CIFAR10", "cifar-10-batches-py", _TRAIN_FLAG),
    "cifar100": NamedSet("objects, 32x32", 100, (50_000, 10_000), "CIFAR100", "cifar-100-python", _TRAIN_FLAG),
    "svhn": NamedSet(
        "street view house numbers, 32x32", 10, (73_257, 26_032), "SVHN", "train_32x32.mat", names=_DIGITS,
    ),
    "stl10": NamedSet("objects, 96x96", 10, (5_000, 8_000), "STL10", "stl10_binary"),
    "stl10-unlabeled": NamedSet(
        "objects, 96x96, 100,000 unlabeled", 0, (100_000,), "STL10", "stl10_binary", {"train": {"split": "unlabeled"}},
    ),
    "flowers102": NamedSet("flowers", 102, (1_020, 6_149, 1_020), "Flowers102", "flowers-102", _TRAIN_VAL_TEST),
    "pets": NamedSet(
        "cat and dog breeds", 37, (3_680, 3_669), "OxfordIIITPet", "oxford-iiit-pet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
    ),
    "food101": NamedSet("dishes", 101, (75_750, 25_250), "Food101", "food-101"),
    "dtd": NamedSet("textures", 47, (1_880, 1_880, 1_880), "DTD", "dtd", _TRAIN_VAL_TEST),
    "eurosat": NamedSet("land use in satellite images, 64x64", 10, (27_000,), "EuroSAT", "eurosat", TRAIN_ONLY),
    "gtsrb": NamedSet("German traffic signs", 43, (26_640, 12_630), "GTSRB", "gtsrb"),
    "aircraft": NamedSet(
        "aircraft variants", 100, (3_334, 3_333, 3_333), "FGVCAircraft", "fgvc-aircraft-2013b", _TRAIN_VAL_TEST,
    ),
    "cars": NamedSet("car models", 196, (8_144, 8_041), "StanfordCars", "stanford_cars", downloadable=False),
    "caltech101": NamedSet("objects", 101, (8_677,), "Caltech101", "caltech101", TRAIN_ONLY),
    "country211": NamedSet(
        "country where a photograph was taken", 211, (31_650, 21_100, 10_550), "Country211", "country211",
        {**_TRAIN_TEST, "validation": {"split": "valid"}},
    ),
    "sun397": NamedSet("scenes", 397, (108_754,), "SUN397", "SUN397", TRAIN_ONLY),
    "pcam": NamedSet(
        "lymph nodes with and without tumor, 96x96", 2, (262_144, 32_768, 32_768), "PCAM", "pcam", _TRAIN_VAL_TEST,
        ("normal", "tumour"),
    ),
    "rendered-sst2": NamedSet(
        "sentiment of sentences rendered as images", 2, (6_920, 1_821, 872), "RenderedSST2", "rendered-sst2",
        _TRAIN_VAL_TEST,
    ),
    "places365": NamedSet(
        "scenes, 256x256", 365, (1_803_460, 36_500), "Places365", "data_256_standard",
        {"train": {"split": "train-standard", "small": True}, "test": {"split": "val", "small": True}},
    ),
    "imagenette": NamedSet(
        "ten easy ImageNet classes, 160 pixels", 10, (9_469, 3_925), "Imagenette", "imagenette2-160",
        {"train": {"split": "train", "size": "160px"}, "test": {"split": "val", "size": "160px"}},
    ),
    "qmnist": NamedSet(
        "handwritten digits, 28x28, MNIST with its full test split", 10, (60_000, 60_000), "QMNIST", "QMNIST",
        _TRAIN_FLAG, _DIGITS,
    ),
    "caltech256": NamedSet("objects", 257, (30_607,), "Caltech256", "caltech256", TRAIN_ONLY),
    "fer2013": NamedSet(
        "facial expressions, 48x48", 7, (28_709, 7_178), "FER2013", "fer2013", names=_FACES, downloadable=False,
    ),
    "clevr-count": NamedSet(
        "number of objects in a rendered scene", 8, (70_000, 15_000), "CLEVRClassification", "clevr",
        {"train": {"split": "train"}, "test": {"split": "val"}}, (*"3456789", "10"), first_label=3,
    ),
    "inaturalist": NamedSet(
        "species, 2021 with the mini training split", 10_000, (500_000, 100_000), "INaturalist", "2021_train_mini",
        {"train": {"version": "2021_train_mini"}, "test": {"version": "2021_valid"}},
    ),
}  # fmt: skip
