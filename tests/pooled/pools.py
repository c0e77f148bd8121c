"""Pools in parts for tests: a saved selector, rows with ids, and ways to part them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes import blobs, mlp, selector

from prunefuse_al.pooled import Saved, Table

TABLE = Table("uid", "x")
N = 700


def network() -> torch.nn.Module:
    """Make the network that the saved selectors are of, with other weights."""
    return mlp(6, 16, 3, seed=5)


def saved(folder: Path, **options: Any) -> Saved:
    """Return a selector that was fitted on 60 rows and saved."""
    x, y = blobs(60)
    file = folder / "selector.safetensors"
    selector(**options).fit(x, y).save(file)
    return Saved(str(file), network)


def rows(n: int = N, *, seed: int = 1, texts: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """Return a pool with ids that are no row numbers; some rows are copies of others, so that scores tie."""
    x = blobs(n, seed=seed)[0].numpy()
    copies = min(40, n // 2)
    x[n // 2 : n // 2 + copies] = x[:copies]
    ids = np.random.default_rng(seed).permutation(10 * n)[:n] - 3 * n
    return {"uid": np.array([f"row {i}" for i in ids], dtype=object) if texts else ids, "x": x}


def parted(pool: dict[str, Any], sizes: list[int], order: Any) -> list[dict[str, Any]]:
    """Return a pool's rows in some order, in batches of these sizes again and again."""
    return [{name: values[part] for name, values in pool.items()} for part in _cut(np.asarray(order), sizes)]


def _cut(order: np.ndarray[Any, Any], sizes: list[int]) -> Iterator[np.ndarray[Any, Any]]:
    start, turn = 0, 0
    while start < len(order):
        yield order[start : start + sizes[turn % len(sizes)]]
        start, turn = start + sizes[turn % len(sizes)], turn + 1
