"""Two processes train, read and pick as one does, and say so where they are not alike."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunefuse_al.errors import InputError
from prunefuse_al.network import Processes
from prunefuse_al.training import TorchTrainer

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two processes found."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    done = subprocess.run(
        [sys.executable, *launcher, str(TESTS / "training" / "processes.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    both = [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]
    assert [each["processes"] for each in both] == [2, 2]
    return both


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "rows left over", "weights", "class weights", "clipped", "metrics"])
def test_training_is_that_of_one_process_but_for_rounding(found: list[dict[str, Any]], case: str) -> None:
    assert max(each["apart"][case] for each in found) < 1e-5


@pytest.mark.slow
def test_no_row_is_read_twice_and_all_come_back_in_order(found: list[dict[str, Any]]) -> None:
    read = [{int(n): tuple(seen) for n, seen in each["read"].items()} for each in found]
    assert read[0] == {1: (1, 1), 3: (3, 1), 5: (3, 1), 50: (25, 1), 51: (26, 1)}  # a single batch each reads itself
    assert read[1] == {1: (1, 1), 3: (3, 1), 5: (2, 1), 50: (25, 1), 51: (25, 1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("seed", "train together differ: seed 7 in process 0 and 8 in process 1; give all"),
        ("epochs", "train together differ: epochs 3 in process 0 and 4 in process 1"),
        ("rows", "train together differ: rows 50 in process 0 and 51 in process 1"),
        ("labels", "train together differ: data (a digest) "),
        ("inputs", "train together differ: data (a digest) "),
        ("network", "train together differ: weight "),
        ("few", "2 processes share the rows of a batch, and here it has 1 (batch_size=1, 51 rows to train on)"),
        ("pool", "read together differ: data (a digest) "),
        ("asked", "read together differ: weight "),
        ("candidates", "pick together differ: candidates (a digest) "),
        ("k", "pick together differ: k 3 in process 0 and 4 in process 1"),
        ("random_state", "pick together differ: random state (a digest) "),
    ],
)
def test_processes_that_are_not_alike_are_refused_in_all_of_them(
    found: list[dict[str, Any]], case: str, words: str
) -> None:
    first, second = (each["refused"][case] for each in found)
    assert words in first
    assert first == second


@pytest.mark.slow
def test_one_process_is_told(found: list[dict[str, Any]]) -> None:
    assert [each["told"] for each in found] == [6, 0]


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["margin", "badge", "k_center", "aum", "ccs", "grand", "random"])
def test_scorers_of_all_kinds_pick_the_same_in_both(found: list[dict[str, Any]], scorer: str) -> None:
    first, second = (each["picks"][scorer] for each in found)
    assert first == second
    assert len(set(first)) >= 3


@pytest.mark.slow
def test_what_fuse_gives_is_trained_with_its_weights_spread_over_processes(found: list[dict[str, Any]]) -> None:
    pieces = [each["sharded"] for each in found]
    assert pieces[0]["kept"] + pieces[1]["kept"] == pieces[0]["whole"] == pieces[1]["whole"]
    for piece in pieces:
        spread, whole = piece["losses"]
        assert spread == pytest.approx(whole)
        assert spread[-1] < spread[0]


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_networks_in_pieces_are_refused(kind: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=2, process_index=0)
    accelerator.distributed_type = accelerate.DistributedType(kind)
    with pytest.raises(InputError, match=rf"accelerator: it spreads the weights .*\({kind}\).* what fuse\(\) returns"):
        TorchTrainer(accelerator=accelerator).check()


@pytest.mark.parametrize(("n", "count"), [(7, 3), (2, 2), (100, 7), (3, 5)])
def test_parts_follow_each_other_and_none_is_in_two(n: int, count: int) -> None:
    each = [SimpleNamespace(num_processes=count, process_index=index) for index in range(count)]
    parts = [Processes(accelerator).part(torch.arange(n)) for accelerator in each]
    assert torch.cat(parts).tolist() == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
