"""What a step of training and a pass for logits take, proxy beside dense network: plain, compiled, channels last.

    python examples/benchmarks/steps.py --networks resnet50 --batch-sizes 64 256 --precision bf16 --ways plain compiled

Pictures are random ones in memory, of 224 px (32 for resnet20), as bytes that a transform scales on the device, or as
floats. Networks and ways take turns (`prunefuse_al.advisor.timing`); printed are medians, in microseconds a picture,
the proxy's share of the dense network's in the same way, and of that in the first way. "compiled" is
`TorchTrainer(compile="auto")`, without the time that compiling takes. Batches are read ahead on CUDA alone. resnet50
and vit_b_16 need torchvision.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from prune_cost import NETWORKS

from prunefuse_al import TorchTrainer, prune
from prunefuse_al.advisor.timing import Spread, Timing, Work, time_work
from prunefuse_al.costs.ledger import CostLedger
from prunefuse_al.data.datasets import as_dataset
from prunefuse_al.data.loading import BatchLoader
from prunefuse_al.training import Reader

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels-last": {"channels_last": True},
    "compiled": {"compile": "auto"},
    "compiled-last": {"compile": "auto", "channels_last": True},
}
PICTURES = [name for name in NETWORKS if not name.startswith("bert")]


def main(argv: list[str] | None = None) -> None:
    """Time every network on every kind of batch and print a line for each way."""
    args = parse(argv)
    place = torch.cuda.get_device_name() if args.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"p = {args.pruning_ratio}, {args.precision}, {args.device}: {place}, torch {torch.__version__}")
    print(f"{'':55}training, us a picture              scoring, us a picture")
    columns = f"{'dense':>8} {'proxy':>8} {'share':>6} {'first':>6}"
    print(f"{'network':10} {'pixels':7} {'batch':>5} {'way':17} {'read':10} {columns}    {columns}")
    read = ("when asked", "ahead") if args.device == "cuda" else ("when asked",)
    for name in args.networks:
        torch.manual_seed(0)
        dense, example = NETWORKS[name]()
        pair = {"dense": dense, "proxy": prune(dense, example, args.pruning_ratio, random_state=0).module}
        for pixels, size, reads in itertools.product(args.pixels, args.batch_sizes, read):
            with reading(reads), compiling():
                found = timed(pair, example, pixels, size, args)
            first = found["dense", args.ways[0]]
            for way in args.ways:
                print(f"{name:10} {pixels:7} {size:>5} {way:17} {reads:10} ", end="")
                dense_, proxy = found["dense", way], found["proxy", way]
                print(shares(dense_.train, proxy.train, first.train), end="    ")
                print(shares(dense_.score, proxy.score, first.score), flush=True)


def timed(
    pair: dict[str, nn.Module], example: Tensor, pixels: str, size: int, args: argparse.Namespace
) -> dict[tuple[str, str], Timing]:
    """Return what both networks take on one kind of batch, in every way, by (network, way); all take turns."""
    pictures = torch.randint(0, 256, (args.rows, *example.shape[1:]), dtype=torch.uint8)
    transform = scaled if pixels == "bytes" else None
    data = as_dataset(pictures if pixels == "bytes" else scaled(pictures), torch.arange(args.rows) % 10)
    options: dict[str, Any] = {"device": args.device, "precision": args.precision, "progress": False}
    options |= {"batch_size": size, "eval_batch_size": size, "transform": transform, "eval_transform": transform}
    work = {}
    for (role, network), way in itertools.product(pair.items(), args.ways):
        reader = Reader(TorchTrainer(**options, **WAYS[way]), network, data)
        work[role, way] = Work(reader, reader, example)
    found = time_work({" ".join(key): each for key, each in work.items()}, repeats=args.repeats, ledger=CostLedger())
    return {key: found[" ".join(key)] for key in work}


def shares(dense: Spread, proxy: Spread, first: Spread) -> str:
    """Return medians, the proxy's share of the dense network's in the same way, and of that in the first way."""
    own, whole = proxy.median / dense.median, proxy.median / first.median
    return f"{dense.median * 1e6:8,.0f} {proxy.median * 1e6:8,.0f} {own:6.2f} {whole:6.2f}"


def scaled(pictures: Tensor) -> Tensor:
    """Return bytes as floats in 0..1."""
    return pictures.float() / 255


@contextmanager
def reading(way: str) -> Any:
    """Have batches read ahead for the block, as they are by themselves, or only when they are asked for."""
    if way == "ahead":
        yield
        return
    with patch.object(BatchLoader, "__init__", partialmethod(without_device, BatchLoader.__init__)):
        yield


def compiling() -> Any:
    """Have the few batches of a measurement be enough to compile for, for the block."""
    return patch("prunefuse_al.network.signals.BATCHES_TO_READ", 1)


def without_device(loader: BatchLoader, made: Any, *args: Any, **options: Any) -> None:
    """Make a loader that knows no device to read ahead for."""
    made(loader, *args, **{**options, "device": None})


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=PICTURES, default=["resnet20"], help="default: resnet20")
    parser.add_argument("--pixels", nargs="+", choices=("bytes", "floats"), default=["bytes", "floats"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64], help="default: 64")
    parser.add_argument("--rows", type=int, default=1024, help="pictures in memory (default: 1024)")
    parser.add_argument("--pruning-ratio", type=float, default=0.5, help="default: 0.5")
    parser.add_argument("--precision", default="fp32", help="default: fp32")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["plain"], help="of training and scoring")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
