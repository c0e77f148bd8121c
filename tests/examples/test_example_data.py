"""Readers of picture files."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from examples.data import body, load, load_table, load_texts, read_idx

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = (np.arange(12) % 10).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(folder, opener, suffix):
    folder.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 5)):
        for kind, array in (("images-idx3", PICTURES), ("labels-idx1", LABELS)):
            with opener(folder / f"{part}-{kind}-ubyte{suffix}", "wb") as file:
                file.write(idx(array[:count]))


@pytest.mark.parametrize(
    ("name", "folder", "opener", "suffix"),
    [
        ("fashion-mnist", "", gzip.open, ".gz"),
        ("fashion-mnist", "fashion-mnist", gzip.open, ".gz"),
        ("fashion-mnist", "FashionMNIST/raw", open, ""),
        ("mnist", "MNIST/raw", open, ""),
    ],
)
def test_idx_files_where_debian_and_torchvision_put_them(tmp_path, name, folder, opener, suffix):
    write_idx(tmp_path / "root" / folder, opener, suffix)
    images = load(name, tmp_path / "root")
    np.testing.assert_array_equal(images.x_train, PICTURES[:, None])
    np.testing.assert_array_equal(images.y_train, LABELS)
    assert (images.x_test.shape, images.y_test.dtype, images.classes) == ((5, 1, 28, 28), np.int64, 10)
    assert images.flips == (name == "fashion-mnist")


def test_half_an_idx_file_is_refused(tmp_path):
    (tmp_path / "images").write_bytes(idx(PICTURES)[:-1])
    with pytest.raises(ValueError, match=r"no idx file of bytes, or not all of it is there \(9,423 bytes\)"):
        read_idx(tmp_path / "images")


def test_cifar_tables(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pictures = RNG.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        image.fromarray(pictures.reshape(2, 1024, 3)).save(tmp_path / f"{name}.png")
    for part, count in (("train", 10), ("test", 2)):
        (tmp_path / f"{part}_lables.json").write_text(json.dumps(list(range(count))))
    images = load("cifar10", tmp_path)
    assert images.x_train.shape == (10, 3, 32, 32)
    np.testing.assert_array_equal(images.x_test, pictures.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(12, 9, 9), (12, 9, 9, 3), (12, 3, 9, 9)])
def test_npz_of_ones_own(tmp_path, shape):
    x = RNG.random(shape)
    file = tmp_path / "own.npz"
    np.savez(file, x_train=x, y_train=LABELS, x_test=x[:3], y_test=LABELS[:3])
    images = load(str(file))
    assert images.x_train.shape == (12, 1 if len(shape) == 3 else 3, 9, 9)
    assert (images.x_train.dtype, len(images.y_test)) == (np.float32, 3)
    np.savez(file, x=np.concatenate([x] * 5), y=np.arange(60) % 3)
    images = load(str(file))
    assert (len(images.y_train), len(images.y_test)) == (40, 20)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--data imagenet: there are digits, .* \.npz"):
        load("imagenet")
    np.savez(tmp_path / "a.npz", pictures=PICTURES)
    with pytest.raises(ValueError, match=r"holds \['pictures'\]; x_train"):
        load(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", x=LABELS, y=LABELS)
    with pytest.raises(ValueError, match=r"least|\[n h w\]"):
        load(str(tmp_path / "b.npz"))


def test_transforms_scale_and_shift(tmp_path):
    import torch

    images = load("digits")
    assert images.x_train.shape == (1198, 1, 8, 8)
    train, evaluate = images.transforms()
    x = evaluate(torch.from_numpy(images.x_train))
    assert abs(float(x.mean())) < 1e-3
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    with torch.random.fork_rng(devices=[]):
        assert train(torch.from_numpy(images.x_train[:9])).shape == (9, 1, 8, 8)


def test_mails_are_read_from_their_folders(tmp_path):
    for folder, text in (("easy-ham-1", "see you"), ("spam-2", "<b>Buy</b> now!")):
        place = tmp_path / "spam" / "data" / folder
        place.mkdir(parents=True)
        (place / "00001.txt").write_text(f"From a@b.c\nReceived: x\nSubject: Hello {folder}\n\n{text}\n")
        (place / "00001.json").write_text("{}")
    found = load_texts(tmp_path)
    assert sorted(zip(found.texts, found.y.tolist(), strict=True)) == [
        ("Hello easy-ham-1 see you\n", 0),
        ("Hello spam-2  Buy  now!\n", 1),
    ]
    assert found.source == f"SpamAssassin's mails in {tmp_path}"
    assert body("no headers at all") == " "


def test_without_mails_there_are_real_texts_of_three_libraries(tmp_path):
    found = load_texts(tmp_path, limit=400)
    assert found.source.startswith(f"no mails in {tmp_path}: paragraphs of numpy's")
    assert (len(found.texts), set(found.y.tolist())) == (400, {0, 1, 2})
    assert load_texts(tmp_path, limit=400).texts == found.texts


def test_words_are_numbered_by_frequency_and_cut():
    from examples.data import Texts

    tokens = Texts(["a b a! zz", "A c", ""], np.zeros(3), "").tokens(length=4, vocabulary=3)
    assert tokens["input_ids"].tolist() == [[2, 1, 2, 1], [2, 1, 0, 0], [0, 0, 0, 0]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_a_table_is_scaled(tmp_path):
    x, y, source = load_table(tmp_path)
    assert source == f"no table in {tmp_path}: scikit-learn's digits as one"
    assert (x.shape, x.dtype, y.dtype) == ((1797, 64), np.float32, np.int64)
    assert abs(x.mean()) < 1e-4
    assert set(np.round(x.std(0), 3).tolist()) <= {0.0, 1.0}
