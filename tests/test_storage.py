"""Features on disk or in half precision are the same features; what fails leaves no file behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import mlp

from prunefuse_al.errors import InputError, NonFiniteError
from prunefuse_al.network.signals import collect
from prunefuse_al.network.storage import RowStore

X = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))


def test_features_in_a_file_and_in_half_precision(tmp_path) -> None:
    path, model = tmp_path / "features.npy", mlp(4, 6, 3)
    plain = collect(model, X, {"features", "logits"}, batch_size=5)
    mapped = collect(model, X, {"features", "logits"}, batch_size=5, features_path=path)
    assert torch.equal(mapped.features, plain.features)
    assert torch.equal(mapped.logits, plain.logits)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), plain.features)
    half = collect(model, X, {"features"}, features_path=path, features_dtype="float16").features
    assert torch.equal(half, plain.features.half())
    assert np.load(path).dtype == np.float16
    assert torch.equal(mapped.features, plain.features)  # mapped from the file that was there before
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


def test_a_pass_that_fails_leaves_the_old_file(tmp_path) -> None:
    path, model = tmp_path / "features.npy", mlp(4, 6, 3)
    collect(model, X, {"features"}, features_path=path)
    before, bad = path.read_bytes(), X.clone()
    bad[20] = torch.nan
    with pytest.raises(NonFiniteError, match="row 20"):
        collect(model, bad, {"features"}, batch_size=4, features_path=path)
    with pytest.raises(NonFiniteError, match=r"features up to .* do not fit half precision, which ends at 65,504"):
        collect(model, X * 1e6, {"features"}, features_path=path, features_dtype="float16")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"features_dtype": "bfloat16"}, "features_dtype='bfloat16'; pass one of 'float32', 'float16'"),
        ({"features_path": "features.bin"}, r"features_path='features.bin'; name a \.npy file in a folder"),
        ({"features_path": "no/such/folder/f.npy"}, "name a .npy file in a folder that is there"),
        ({"features_path": "/proc/f.npy"}, r"features_path='/proc/f.npy' cannot be written \("),
    ],
)
def test_storage_that_cannot_be_is_refused(options, phrase) -> None:
    with pytest.raises(InputError, match=phrase):
        collect(mlp(4, 6, 3), X, {"features"}, **options)


def test_rows_go_where_they_belong() -> None:
    store = RowStore(5)
    store.add({"a": torch.arange(3), "b": torch.ones(3, 2)})
    store.add({"a": torch.arange(3, 5), "b": torch.zeros(2, 2)})
    assert store.tensors["a"].tolist() == [0, 1, 2, 3, 4]
    assert store.tensors["b"].sum() == 6
