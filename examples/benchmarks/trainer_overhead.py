"""What `TorchTrainer.fit` costs over a bare PyTorch loop: same network, batches and optimiser, alternating runs.

    python examples/benchmarks/trainer_overhead.py [--device cpu] [--rounds 7] [--rows 2048] [--epochs 2]

Both loops step with torch's fused SGD and end with the same weights, bit for bit, which is checked; then the times of
each pair of runs are compared: by the clock, and on a CPU also in processor seconds, which other work on the machine
disturbs less.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_al import TorchTrainer
from prunefuse_al.data.randomness import isolated_rng

sys.path.insert(0, str(Path(__file__).parents[1]))
from networks import cifar_resnet


def bare(model: nn.Module, x: Tensor, y: Tensor, epochs: int, batch: int, device: torch.device) -> None:
    """Train as a tutorial would, with what a user needs to see: the mean loss and the accuracy of each epoch."""
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        total, hits = torch.zeros((), device=device), torch.zeros((), device=device)
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            inputs, labels = x[rows].to(device, non_blocking=True), y[rows].to(device, non_blocking=True)
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(rows)
            hits += (logits.argmax(1) == labels).sum()
        schedule.step()
        _ = float(total) / len(x), float(hits) / len(x)


def ours(model: nn.Module, x: Tensor, y: Tensor, epochs: int, batch: int, device: torch.device) -> None:
    """Train with the library."""
    trainer = TorchTrainer(
        epochs, batch, scheduler=torch.optim.lr_scheduler.CosineAnnealingLR, device=device, progress=False
    )
    trainer.fit(model, (x, y), seed=0)


def timed(run: Callable[..., None], model: nn.Module, *args: object) -> tuple[float, float, nn.Module]:
    """Return wall seconds and processor seconds of one training of a copy of `model`, and the copy."""
    model, device = copy.deepcopy(model), args[-1]
    wall, cpu = time.perf_counter(), time.process_time()
    run(model, *args)
    if isinstance(device, torch.device) and device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, model


def main() -> None:
    """Print both times, their ratio and its spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, value in (("rounds", 7), ("rows", 2048), ("epochs", 2), ("batch", 128), ("depth", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    device = torch.device(options.device)
    # The trainer asks cuDNN for deterministic kernels; a fair loop does too.
    torch.backends.cudnn.deterministic = True
    with isolated_rng(0):
        model = cifar_resnet(options.depth).to(device)
        x, y = torch.randn(options.rows, 3, 32, 32), torch.randint(10, (options.rows,))
    args = (x, y, options.epochs, options.batch, device)
    first, second = timed(bare, model, *args)[2], timed(ours, model, *args)[2]  # warm up, and compare
    same = all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    found: dict[Callable[..., None], list[tuple[float, float]]] = {bare: [], ours: []}
    for i in range(options.rounds):
        for run in [bare, ours] if i % 2 == 0 else [ours, bare]:
            found[run].append(timed(run, model, *args)[:2])
    print(f"ResNet-{options.depth}, {options.rows} images, {options.epochs} epochs, batch {options.batch}, {device}")
    print(f"{options.rounds} alternating pairs of runs; same weights at the end: {same}")
    for kind, name in enumerate(["wall", "processor"][: 1 if device.type == "cuda" else 2]):
        plain, lib = ([times[kind] for times in found[run]] for run in (bare, ours))
        ratios = sorted(b / a for a, b in zip(plain, lib, strict=True))
        print(
            f"{name:9} seconds: bare loop {statistics.median(plain):.3f}, TorchTrainer {statistics.median(lib):.3f}, "
            f"ratio {statistics.median(ratios):.3f} (median of pairs; {ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()
