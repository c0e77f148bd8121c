"""What pruning and fusing cost: seconds and memory, beside copying the network and one forward and backward pass.

    python examples/benchmarks/prune_cost.py --networks resnet50 vit_b_16 bert-base --repeats 3

Seconds are medians of runs that take turns. Memory is the peak resident size of a process of its own, less that of one
that only makes the network; it is stated in copies of the network's parameters and buffers. resnet50 and vit_b_16 need
torchvision, bert-base transformers, and resnet20 (the one for CIFAR, for a quick look) neither.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import memory
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.networks import cifar_resnet
from prunefuse_al import fuse, prune

BERT_TOKENS = 128


def resnet20() -> tuple[nn.Module, Any]:
    return cifar_resnet(20), torch.randn(2, 3, 32, 32)


def resnet50() -> tuple[nn.Module, Any]:
    from torchvision import models

    return models.resnet50(weights=None), torch.randn(2, 3, 224, 224)


def vit_b_16() -> tuple[nn.Module, Any]:
    from torchvision import models

    return models.vit_b_16(weights=None), torch.randn(2, 3, 224, 224)


def bert_base() -> tuple[nn.Module, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    tokens = torch.randint(0, 30_000, (2, BERT_TOKENS))
    return BertForSequenceClassification(BertConfig()), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "resnet20": resnet20,
    "resnet50": resnet50,
    "vit_b_16": vit_b_16,
    "bert-base": bert_base,
}


def copied(network: nn.Module, example: Any) -> None:
    """Copy the network and pass two rows through it, forward and backward."""
    twin = copy.deepcopy(network)
    output = twin(**example) if isinstance(example, dict) else twin(example)
    getattr(output, "logits", output).sum().backward()


def pruned(network: nn.Module, example: Any) -> None:
    """Prune the network at p = 0.5 and fuse the proxy."""
    fuse(network, prune(network, example, 0.5))


WORK = {"nothing": lambda network, example: None, "copied": copied, "pruned": pruned}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.peak:
        network, example = NETWORKS[args.networks[0]]()
        WORK[args.peak](network, example)
        print(round(memory.peak() * 2**20))
        return
    print("network     parameters  copy + pass, s  prune + fuse, s  ratio  memory in copies: copy + pass  prune + fuse")
    for name in args.networks:
        print(measured(name, args), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet50"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", choices=WORK, default="", help="only do this once and print the peak resident size")
    return parser.parse_args()


def measured(name: str, args: argparse.Namespace) -> str:
    """Return the line of a network."""
    torch.manual_seed(0)
    network, example = NETWORKS[name]()
    pruned(network, example)  # what torch imports for the first one is not counted
    seconds: dict[str, list[float]] = {"copied": [], "pruned": []}
    for _ in range(args.repeats):
        for work, taken in seconds.items():
            start = time.perf_counter()
            WORK[work](network, example)
            taken.append(time.perf_counter() - start)
    medians = {work: statistics.median(taken) for work, taken in seconds.items()}
    size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    peaks = {work: peak(name, work, args.threads) for work in WORK}
    copies = {work: (peaks[work] - peaks["nothing"]) / size for work in seconds}
    return (
        f"{name:<10} {sum(p.numel() for p in network.parameters()):>11,} {medians['copied']:>15.2f} "
        f"{medians['pruned']:>16.2f} {medians['pruned'] / medians['copied']:>6.2f} {copies['copied']:>30.2f} "
        f"{copies['pruned']:>13.2f}"
    )


def peak(name: str, work: str, threads: int) -> int:
    """Return the peak resident size in bytes of a process that does `work` once."""
    command = [sys.executable, __file__, "--networks", name, "--peak", work, "--threads", str(threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
