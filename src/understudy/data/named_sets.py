"""The table of the data sets that go by a name: scikit-learn's digits, and torchvision's classification sets."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.data.gather import Part

SPLIT: Mapping[Part, Mapping[str, object]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = {**SPLIT, "validation": {"split": "val"}}
_FLAG: Mapping[Part, Mapping[str, object]] = {"train": {"train": True}, "test": {"train": False}}
WHOLE: Mapping[Part, Mapping[str, object]] = {"train": {}}
SEE_ITS_PAGE = "see its page"


@dataclass(frozen=True)
class NamedSet:
    """One row of the table.

    Attributes:
        about: what it shows, in a few words.
        classes: the number of classes, 0 where it is unlabelled.
        examples: how many there are to learn from, to test on and, in some sets, to validate on; one number where
            the set has no official parts.
        kind: the class in `torchvision.datasets`; empty for scikit-learn's digits.
        folder: the file or folder that torchvision looks for below the root.
        parts: part -> the keyword arguments that make it; one part alone is split 80 to 20.
        names: class names where torchvision has none.
        stem: how the files of the MNIST family begin.
        first: the label of the first class.
        fetched: whether torchvision can download it.
        licence: where it is beyond doubt.
    """

    about: str
    classes: int
    examples: tuple[int, ...] = ()
    kind: str = ""
    folder: str = ""
    parts: Mapping[Part, Mapping[str, object]] = field(default_factory=lambda: SPLIT)
    names: tuple[str, ...] = ()
    stem: str = ""
    first: int = 0
    fetched: bool = True
    licence: str = SEE_ITS_PAGE


_DIGITS = tuple(string.digits)
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_BALANCED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
_FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

NAMED: Mapping[str, NamedSet] = {
    "digits": NamedSet("handwritten digits, 8x8, inside scikit-learn", 10, (1_797,)),
    "mnist": NamedSet(
        "handwritten digits, 28x28", 10, (60_000, 10_000), "MNIST", "MNIST/raw", _FLAG, _DIGITS
    ),
    "fashion-mnist": NamedSet(
        "clothes, 28x28", 10, (60_000, 10_000), "FashionMNIST", "FashionMNIST/raw", _FLAG,
        _CLOTHES,
        licence="MIT",
    ),
    "kmnist": NamedSet(
        "cursive Japanese characters, 28x28", 10, (60_000, 10_000), "KMNIST", "KMNIST/raw", _FLAG,
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        licence="CC BY-SA 4.0",
    ),
    "emnist": NamedSet(
        "handwritten digits and letters, balanced, 28x28", 47, (112_800, 18_800), "EMNIST", "EMNIST/raw",
        {part: {**flag, "split": "balanced"} for part, flag in _FLAG.items()}, _BALANCED, "emnist-balanced-",
    ),
    "emnist-letters": NamedSet(
        "handwritten letters, 28x28", 26, (124_800, 20_800), "EMNIST", "EMNIST/raw",
        {part: {**flag, "split": "letters"} for part, flag in _FLAG.items()},
        tuple(string.ascii_lowercase), "emnist-letters-", first=1,
    ),
    "usps": NamedSet("digits from envelopes, 16x16", 10, (7_291, 2_007), "USPS", "usps.bz2", _FLAG, _DIGITS),
    "semeion": NamedSet(
        "handwritten digits, 16x16", 10, (1_593,), "SEMEION", "semeion.data", WHOLE, _DIGITS
    ),
    "cifar10": NamedSet("objects, 32x32", 10, (50_000, 10_000), "CIFAR10", "cifar-10-batches-py", _FLAG),
    "cifar100": NamedSet("objects, 32x32", 100, (50_000, 10_000), "CIFAR100", "cifar-100-python", _FLAG),
    "svhn": NamedSet(
        "house numbers in the street, 32x32", 10, (73_257, 26_032), "SVHN", "train_32x32.mat", names=_DIGITS
    ),
    "stl10": NamedSet("objects, 96x96", 10, (5_000, 8_000), "STL10", "stl10_binary"),
    "stl10-unlabelled": NamedSet(
        "objects, 96x96, 100,000 without labels", 0, (100_000,), "STL10", "stl10_binary",
        {"train": {"split": "unlabeled"}},
    ),
    "flowers102": NamedSet("flowers", 102, (1_020, 6_149, 1_020), "Flowers102", "flowers-102", _THREE),
    "pets": NamedSet(
        "breeds of cats and dogs", 37, (3_680, 3_669), "OxfordIIITPet", "oxford-iiit-pet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        licence="CC BY-SA 4.0",
    ),
    "food101": NamedSet("dishes", 101, (75_750, 25_250), "Food101", "food-101"),
    "dtd": NamedSet("textures", 47, (1_880, 1_880, 1_880), "DTD", "dtd", _THREE),
    "eurosat": NamedSet("land use from a satellite, 64x64", 10, (27_000,), "EuroSAT", "eurosat", WHOLE, licence="MIT"),
    "gtsrb": NamedSet("German traffic signs", 43, (26_640, 12_630), "GTSRB", "gtsrb"),
    "aircraft": NamedSet(
        "variants of aircraft", 100, (3_334, 3_333, 3_333), "FGVCAircraft", "fgvc-aircraft-2013b", _THREE
    ),
    "cars": NamedSet("makes of cars", 196, (8_144, 8_041), "StanfordCars", "stanford_cars", fetched=False),
    "caltech101": NamedSet("objects", 101, (8_677,), "Caltech101", "caltech101", WHOLE),
    "country211": NamedSet(
        "the country of a photograph", 211, (31_650, 21_100, 10_550), "Country211", "country211",
        {**SPLIT, "validation": {"split": "valid"}},
    ),
    "sun397": NamedSet("scenes", 397, (108_754,), "SUN397", "SUN397", WHOLE),
    "pcam": NamedSet(
        "lymph nodes with and without tumour, 96x96", 2, (262_144, 32_768, 32_768), "PCAM", "pcam", _THREE,
        ("normal", "tumour"),
        licence="CC0",
    ),
    "rendered-sst2": NamedSet(
        "sentiment of sentences drawn as images", 2, (6_920, 1_821, 872), "RenderedSST2", "rendered-sst2", _THREE
    ),
    "places365": NamedSet(
        "scenes, 256x256", 365, (1_803_460, 36_500), "Places365", "data_256_standard",
        {"train": {"split": "train-standard", "small": True}, "test": {"split": "val", "small": True}},
    ),
    "imagenette": NamedSet(
        "ten easy classes of ImageNet, 160 pixels", 10, (9_469, 3_925), "Imagenette", "imagenette2-160",
        {"train": {"split": "train", "size": "160px"}, "test": {"split": "val", "size": "160px"}},
        licence="Apache-2.0",
    ),
    "qmnist": NamedSet(
        "handwritten digits, 28x28, MNIST with all of its test part", 10, (60_000, 60_000), "QMNIST", "QMNIST", _FLAG,
        _DIGITS,
        licence="BSD-3-Clause",
    ),
    "caltech256": NamedSet("objects", 257, (30_607,), "Caltech256", "caltech256", WHOLE),
    "fer2013": NamedSet(
        "expressions of faces, 48x48", 7, (28_709, 7_178), "FER2013", "fer2013", names=_FACES, fetched=False
    ),
    "clevr-count": NamedSet(
        "how many solids stand on a plane, drawn", 8, (70_000, 15_000), "CLEVRClassification", "clevr",
        {"train": {"split": "train"}, "test": {"split": "val"}}, (*"3456789", "10"), first=3,
        licence="CC BY 4.0",
    ),
    "inaturalist": NamedSet(
        "species, the small training part of 2021", 10_000, (500_000, 100_000), "INaturalist", "2021_train_mini",
        {"train": {"version": "2021_train_mini"}, "test": {"version": "2021_valid"}},
    ),
}  # fmt: skip
