"""What a pass over a pool takes in several ways: BatchNorm folded, layout, batches, precision, compiled, threads.

    python examples/benchmarks/scoring.py --network resnet20/2 --size 14 --channels 1 --threads 1 2
    python examples/benchmarks/scoring.py --network torchvision:resnet50 --size 224 --rows 256 --batch-sizes 16 64

A proxy with random weights whose BatchNorm has seen pictures passes random ones and gives logits, as for least
confidence, entropy and margin. The first line is the pass without any of it, at 256 pictures a batch; the ways take
turns, every other turn backwards, and printed are medians of seconds and of each turn's share of the first way.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import networks
import torch
from torch import Tensor, nn

from prunefuse_al import TorchTrainer, prune
from prunefuse_al.training import fold_batchnorm

FIRST = "plain, batches of 256"
LOGITS = frozenset({"logits"})


def main(argv: list[str] | None = None) -> None:
    """Time every way with each number of threads and print a table."""
    args = parse(argv)
    torch.manual_seed(0)
    pictures = torch.randn(args.rows, args.channels, args.size, args.size)
    proxy = pruned(args, pictures[:64])
    ways = ways_to_pass(args, proxy, pictures)
    print(f"{args.network}, p = {args.pruning_ratio}, {args.rows:,} pictures of {args.size} px, ", end="")
    print(f"{args.device}, torch {torch.__version__}; medians of {args.repeats}")
    for threads in args.threads:
        torch.set_num_threads(threads)
        found = in_turns(ways, args.repeats)
        print(f"\n{f'threads: {threads}':32} {'seconds':>9} {'share of the first':>20}")
        for name, seconds in found.items():
            share = statistics.median(a / b for a, b in zip(seconds, found[FIRST], strict=True))
            print(f"{name:32} {statistics.median(seconds):9.3f} {share:20.2f}", flush=True)


def ways_to_pass(args: argparse.Namespace, proxy: nn.Module, pictures: Tensor) -> dict[str, Callable[[], Any]]:
    """Return what passes the pictures, by name; the first is the plain way."""
    folded = fold_batchnorm(proxy, pictures[:2])

    def way(network: nn.Module, size: int = 256, **options: Any) -> Callable[[], Any]:
        trainer = TorchTrainer(eval_batch_size=size, device=args.device, progress=False, **options)
        return lambda: trainer.infer(network, pictures, LOGITS).logits

    ways, kind = {FIRST: way(proxy)}, "plain"
    if folded is not None:  # else no BatchNorm of this network can be
        ways["folded"], kind, proxy = way(folded), "folded", folded
    ways |= {f"{kind}, batches of {size}": way(proxy, size) for size in args.batch_sizes if size != 256}
    ways[f"{kind}, channels last"] = way(proxy, channels_last=True)
    if args.compile:  # anew in each pass, which is in its time
        ways[f"{kind}, compiled"] = way(proxy, compile="auto")
    if args.bf16:
        ways[f"{kind}, bf16"] = way(proxy, precision="bf16")
    return ways


def in_turns(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return seconds of every way, run once before to warm up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-1, repeats):
        for name in list(ways)[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            ways[name]()  # logits come back to the CPU, so a device has ended its work
            if repeat >= 0:
                found[name].append(time.perf_counter() - start)
    return found


def pruned(args: argparse.Namespace, pictures: Tensor) -> nn.Module:
    """Return a proxy whose BatchNorm has seen pictures."""
    dense = networks.build(args.network, args.channels, 10, args.size)
    proxy = prune(dense, pictures[:2], args.pruning_ratio, random_state=0).module.train()
    with torch.no_grad():
        proxy(pictures)
    return proxy.eval()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet20", help="see networks.build (default: resnet20)")
    parser.add_argument("--size", type=int, default=32, help="height and width of the pictures (default: 32)")
    parser.add_argument("--channels", type=int, default=3, help="of the pictures (default: 3)")
    parser.add_argument("--rows", type=int, default=4096, help="pictures in the pool (default: 4096)")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 1024], help="default: 64 1024")
    parser.add_argument("--bf16", action="store_true", help="pass in bf16 as well")
    parser.add_argument("--compile", action="store_true", help="pass compiled as well, given 100 batches of 256")
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--pruning-ratio", type=float, default=0.5, help="default: 0.5")
    parser.add_argument("--repeats", type=int, default=7, help="default: 7")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
