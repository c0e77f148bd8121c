"""Batch transforms against a loop over pictures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from prunefuse_al.data.randomness import isolated_rng
from prunefuse_al.errors import InputError
from prunefuse_al.training.recipes import CIFAR10
from prunefuse_al.training.transforms import Compose, Normalize, RandomCropFlip, per_sample

PICTURES = torch.arange(64 * 3 * 6 * 5, dtype=torch.float32).view(64, 3, 6, 5)


def test_every_picture_is_one_of_its_own_shifts_and_mirrors() -> None:
    with isolated_rng(0):
        found = RandomCropFlip(padding=1)(PICTURES)
    assert found.shape == PICTURES.shape
    seen = set()
    for picture, cropped in zip(F.pad(PICTURES, [1] * 4), found, strict=True):
        windows = {(i, j): picture[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)}
        matches = [
            (*place, mirrored)
            for place, window in windows.items()
            for mirrored in (False, True)
            if torch.equal(window.flip(2) if mirrored else window, cropped)
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 12, "64 pictures hit nearly all of the 18 choices"


def test_without_padding_and_flips_nothing_happens() -> None:
    with isolated_rng(0):
        assert torch.equal(RandomCropFlip(0, 0.0)(PICTURES), PICTURES)
        assert torch.equal(RandomCropFlip(0, 1.0)(PICTURES), PICTURES.flip(3))
        assert RandomCropFlip()(PICTURES.to(torch.uint8)).dtype == torch.uint8


def test_normalising_scales_bytes_only() -> None:
    bytes_ = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CIFAR10.mean, CIFAR10.std))
    torch.testing.assert_close(CIFAR10(bytes_), (bytes_ / 255 - mean) / std)
    torch.testing.assert_close(CIFAR10(bytes_ / 255), CIFAR10(bytes_))
    with pytest.raises(InputError, match=r"3 channels and got \[4, 1, 2, 2\]"):
        CIFAR10(bytes_[:, :1])


def test_they_compose_and_evaluate_back_from_their_names() -> None:
    both = Compose((RandomCropFlip(0, 1.0), Normalize((0.0,) * 3, (2.0,) * 3)))
    assert eval(repr(both)) == both
    with isolated_rng(0):
        torch.testing.assert_close(both(PICTURES), PICTURES.flip(3) / 2)


def test_per_sample_draws_for_each_row() -> None:
    with isolated_rng(0):
        shift = per_sample(lambda row: row + torch.rand(()))
        assert len(set(shift(torch.zeros(10, 1)).flatten().tolist())) == 10
