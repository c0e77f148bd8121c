"""What a channel more or less costs: time of a thinned ResNet over that of the dense one, at neighbouring widths.

    python examples/benchmarks/widths.py [--depth 56] [--batch 128] [--ratio 0.4] [--device cpu] [--repeats 15]

Narrow convolutions compute whole vectors of channels, so that widths between two multiples of 8 may cost as much as the
multiple above. Every network takes one step in turn, so that other work on the machine disturbs all alike; what is
printed are medians, over the dense network's, beside the share of multiply-accumulates (MACs).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from prunefuse_al import Proxy, prune
from prunefuse_al.data.randomness import isolated_rng
from prunefuse_al.network.precision import resolve_device

sys.path.insert(0, str(Path(__file__).parents[1]))
from networks import cifar_resnet


def candidates(dense: nn.Module, example: Tensor, ratio: float) -> dict[str, Proxy]:
    """Return proxies at the widths asked, at the default's, at the nearest multiples of 8, and of half the width."""
    return {
        "as asked (round_to=1)": prune(dense, example, ratio, round_to=1),
        "default": prune(dense, example, ratio),
        "nearest multiples (round_to=8)": prune(dense, example, ratio, round_to=8),
        "p = 0.5": prune(dense, example, 0.5, round_to=1),
    }


def stages(module: nn.Module) -> str:
    """Return the widths of a ResNet's stages, for example "9/19/38"."""
    widths = [block.conv2.out_channels for block in module.blocks]  # type: ignore[union-attr]
    return "/".join(map(str, dict.fromkeys(widths)))


def training_step(module: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """Return one step of training with SGD."""
    module = module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()

    return step


def inference(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return one pass in eval mode."""

    def step() -> None:
        module.eval()
        with torch.inference_mode():
            module(x)

    return step


def medians(steps: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each step, all taking turns, after two turns to warm up."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= 2:
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def main(argv: list[str] | None = None) -> None:
    """Print a row for each choice of widths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=56, help="6n + 2 (default: 56)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="height and width of the pictures (default: 32)")
    parser.add_argument("--ratio", type=float, default=0.4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args(argv)
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    with isolated_rng(0):
        dense = cifar_resnet(options.depth).to(device)
        x = torch.randn(options.batch, 3, options.size, options.size, device=device)
        y = torch.randint(10, (options.batch,), device=device)
    proxies = candidates(dense, x[:2], options.ratio)
    networks = {"dense": dense, **{name: proxy.module for name, proxy in proxies.items()}}
    train = medians({n: training_step(m, x, y) for n, m in networks.items()}, options.repeats, device)
    infer = medians({n: inference(m, x) for n, m in networks.items()}, options.repeats, device)
    print(f"ResNet-{options.depth}, p = {options.ratio}, batch {options.batch}, {device}, {options.threads} threads")
    print(f"medians of {options.repeats} turns, over the dense network's ({stages(dense)})")
    print(f"{'widths':32} {'':12} {'MACs':>6} {'train step':>11} {'inference':>10}")
    for name, proxy in proxies.items():
        shares = f"{train[name] / train['dense']:>11.2f} {infer[name] / infer['dense']:>10.2f}"
        print(f"{name:32} {stages(proxy.module):12} {proxy.report().mac_share:>6.3f} {shares}")


if __name__ == "__main__":
    main()
