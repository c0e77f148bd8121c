"""Prune one network of every family of timm, torchvision and transformers, and say what came of it.

    python examples/benchmarks/zoo_sweep.py --ratio 0.5 --results sweep.jsonl
    python examples/benchmarks/zoo_sweep.py --only "timm/vit*" "transformers/Bert*"

Each network is made, called, pruned, trained for a pass, fused and compared in a process of its own, with limits of CPU
seconds and memory. What the report claims is not taken from it: the proxy gets other weights, and then its answers and
those of the fused network are compared here, in double precision where that can be, on rows like the example's, on more
rows and, where the network takes one, at another size. Results are appended to a file as they come, and what stands
there is not run again. The networks (`zoo_members.py`) are untrained, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import multiprocessing.pool
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.benchmarks import zoo_members
from prunefuse_al import Proxy, fuse, prune
from prunefuse_al.errors import PruneFuseError
from prunefuse_al.pruning import PruningReport

EXACT, INEXACT, THICK = "exact", "not exact and said so", "barely thinned"
WRONG, REFUSED, FAILED, SLOW, UNMADE = "wrong", "refused", "failed", "too slow", "not made"
CATEGORIES = {
    EXACT: "the fused network gives what the proxy gives",
    INEXACT: "thinned; the report says that fusing loses something",
    THICK: "of the parameters that the example reaches, less left than 0.6 of what was asked",
    REFUSED: "prune() gave the reason",
    WRONG: "the report claims what does not hold",
    FAILED: "another error, or the process died",
    SLOW: "more CPU seconds than allowed",
    UNMADE: "does not run here without prune(): not counted",
}
# Rounding of whole networks, parts of which may compute in single precision. Some do so throughout.
PRECISIONS = {torch.float64: 1e-5, torch.float32: 1e-3}


@dataclass(frozen=True)
class Result:
    """What came of one network.

    Attributes:
        name: library and network.
        ratio: fraction of channels that was asked to leave.
        category: one of `CATEGORIES`.
        words: the reason, or what was found instead.
        seconds: of CPU in `prune`.
        parameters: those of the proxy over those of the dense network, of what the example reaches: the network for
            pictures in one that is called with texts is not counted.
        macs: likewise.
        distance: largest difference between fused network and proxy, over the largest difference between rows.
    """

    name: str
    ratio: float
    category: str
    words: str = ""
    seconds: float = 0.0
    parameters: float = 1.0
    macs: float = 1.0
    distance: float = 0.0


@dataclass(frozen=True)
class Limits:
    """What a network may take: CPU seconds, and GiB."""

    seconds: int
    memory: float


# ---- one network, in a process of its own ----


def swept(name: str, ratio: float) -> Result:
    """Return what comes of a network in this process."""
    try:
        member = zoo_members.made(name)
        with torch.no_grad():
            zoo_members.run(member.network, member.inputs(2, False))  # a network that has been used is pruned as well
    except Exception as error:  # each library has its own
        return Result(name, ratio, UNMADE, _said(error))
    start = time.process_time()
    try:
        proxy = prune(member.network, member.inputs(2, False), ratio)
    except PruneFuseError as error:
        return Result(name, ratio, REFUSED, _said(error), time.process_time() - start)
    seconds = time.process_time() - start
    report = proxy.report()
    found = compared(member, proxy)
    share = reached_share(member.network, report)
    category = judged(ratio, share, claimed=report.preserve_exact, holds=found.holds)
    words = "; ".join(dict.fromkeys(report.kept_whole.values())) if category in (THICK, INEXACT) else ""
    return Result(name, ratio, category, words[:500], seconds, share, report.mac_share, found.distance)


def reached_share(network: nn.Module, report: PruningReport) -> float:
    """Return the share of parameters that is left of those that the example reaches."""
    beyond = tuple(f"{name}." for name in report.not_executed)  # of modules and parameters; the rest are places in code
    rest = sum(p.numel() for name, p in network.named_parameters() if f"{name}.".startswith(beyond))
    return (report.proxy_parameters - rest) / (report.dense_parameters - rest)


def judged(ratio: float, share: float, *, claimed: bool, holds: bool) -> str:
    """Return the category of a network that was pruned.

    Args:
        ratio: fraction of channels that was asked to leave.
        share: parameters left.
        claimed: the report says that fusing is exact.
        holds: it was found to be.
    """
    if claimed and not holds:
        return WRONG
    if share > 1 - 0.6 * ratio:
        return THICK
    return EXACT if claimed else INEXACT


@dataclass(frozen=True)
class Compared:
    """The largest relative distance between a trained proxy and the network it is fused into, and what is rounding."""

    distance: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether it is rounding."""
        return self.distance < self.tolerance


def compared(member: zoo_members.Member, proxy: Proxy) -> Compared:
    """Give a proxy, in place, other weights, and compare it with the network it is then fused into."""
    changed(proxy.module, member.inputs(3, False))
    target = fuse(member.network, proxy, cross="preserve")
    networks = member.network, target, proxy.module
    dtype = next((dtype for dtype in PRECISIONS if _computes(member, dtype)), torch.float32)
    dense, fused, thin = (network.to(dtype).eval() for network in networks)
    inputs = [_in(dtype, member.inputs(rows, larger)) for rows, larger in ((2, False), (5, False), (3, True))]
    try:
        answer(dense, inputs[-1])
    except Exception:  # it does not take this size
        del inputs[-1]
    return Compared(max(distance(answer(fused, x), answer(thin, x)) for x in inputs), PRECISIONS[dtype])


def _computes(member: zoo_members.Member, dtype: torch.dtype) -> bool:
    """Return whether a network, which is left in this precision, gives finite answers in it."""
    try:
        return bool(answer(member.network.to(dtype), _in(dtype, member.inputs(2, False))).isfinite().all())
    except RuntimeError:
        return False


@torch.no_grad()
def changed(network: nn.Module, inputs: Any) -> None:
    """Give a network, in place, other weights, and statistics of batches that fit them: as a training would."""
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().max()
            parameter.add_(torch.randn_like(parameter) * (0.3 * spread.nan_to_num() + 0.02))
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            module.train()
    with contextlib.suppress(ValueError):  # one value a channel has no statistics
        zoo_members.run(network, inputs)
    network.eval()


def answer(network: nn.Module, inputs: Any) -> Tensor:
    """Return the logits of a network, or the first tensor it answers with."""
    torch.manual_seed(1)
    with torch.no_grad():
        found = zoo_members.run(network, inputs)
    while not isinstance(found, Tensor):
        found = getattr(found, "logits", None) if hasattr(found, "logits") else found
        if not isinstance(found, Tensor):
            found = next(iter(found.values() if isinstance(found, dict) else found))
    return found


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest between rows; infinite where shapes differ or numbers are NaN."""
    if one.shape != other.shape or not bool(one.isfinite().all() and other.isfinite().all()):
        return float("inf")
    spread = (other - other.mean(0)).abs().max()
    return float((one - other).abs().max() / spread.clamp(min=1e-7 * float(other.abs().max()) + 1e-300))


def _in(dtype: torch.dtype, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {name: _in(dtype, value) for name, value in inputs.items()}
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]


# ---- processes ----


def swept_apart(name: str, ratio: float, limits: Limits) -> Result:
    """Return what comes of a network in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, ratio, limits, sender))
    process.start()
    sender.close()
    try:
        found: Result | None = receiver.recv() if receiver.poll(5 * limits.seconds) else None
    except EOFError:
        found = None
    if found is None and process.is_alive():
        process.kill()
    process.join()
    return found or lost(name, ratio, process.exitcode)


def lost(name: str, ratio: float, code: int | None) -> Result:
    """Return what came of a network whose process ended without a word."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return Result(name, ratio, SLOW, "its process was ended at the limit")
    return Result(name, ratio, FAILED, f"its process ended with {code}")


def _child(name: str, ratio: float, limits: Limits, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (round(limits.memory * 2**30),) * 2)
    used = round(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + limits.seconds, used + limits.seconds + 5))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        found = swept(name, ratio)
    except (Exception, MemoryError) as error:
        found = Result(name, ratio, FAILED, _said(error))
    sender.send(found)


# ---- results ----


def known(file: Path) -> list[Result]:
    """Return the results in a file, none if there is none."""
    return [Result(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def line(result: Result) -> str:
    """Return a result as a line."""
    return (
        f"{result.name:<62} {result.seconds:>7.1f} {result.parameters:>10.2f} {result.macs:>6.2f} "
        f"{result.distance:>9.1e}  {result.category}{': ' if result.words else ''}{result.words[:150]}"
    )


def table(results: list[Result]) -> str:
    """Return how many networks came to what, in all and of each library, and the slowest."""
    counted = [result for result in results if result.category != UNMADE]
    libraries = sorted({result.name.partition("/")[0] for result in results})
    counts = Counter((result.category, result.name.partition("/")[0]) for result in results)
    lines = [f"| | networks | share | {' | '.join(libraries)} | |", "|---" * (len(libraries) + 4) + "|"]
    for category, meaning in CATEGORIES.items():
        each = [counts[category, library] for library in libraries]
        share = f"{sum(each) / max(1, len(counted)):.1%}" if category != UNMADE else ""
        lines.append(f"| {category} | {sum(each)} | {share} | {' | '.join(map(str, each))} | {meaning} |")
    slowest = sorted(counted, key=lambda result: -result.seconds)[:3]
    lines.append(f"\nslowest: {', '.join(f'{result.name} {result.seconds:.0f} s' for result in slowest)}")
    return "\n".join(lines)


def main() -> None:
    args = arguments()
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # what is preloaded comes from where it comes from here
    preloaded = ["prunefuse_al", *zoo_members.asked(args.only)]  # once, not in every process
    multiprocessing.get_context("forkserver").set_forkserver_preload(preloaded)
    found = {result.name: result for result in known(args.results) if result.ratio == args.ratio}
    asked = zoo_members.names(args.only)[:: args.every][: args.limit]
    limits = Limits(args.seconds, args.memory)
    print(f"{'network':<62} {'CPU, s':>7} {'parameters':>10} {'MACs':>6} {'distance':>9}")
    with multiprocessing.pool.ThreadPool(args.jobs) as pool:
        missing = [name for name in asked if name not in found]
        for result in pool.imap(lambda name: swept_apart(name, args.ratio, limits), missing):
            print(line(result), flush=True)
            found[result.name] = result
            with args.results.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
    summary = [found[name] for name in asked]
    print(f"\n{len(summary)} networks at p = {args.ratio:g}\n\n{table(summary)}")
    if any(result.category in (WRONG, FAILED) for result in summary):
        sys.exit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=0.5, help="fraction of channels to remove")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help='such as "timm/vit*"')
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one of N")
    parser.add_argument("--limit", type=int, metavar="N", help="N at most")
    parser.add_argument("--seconds", type=int, default=180, help="of CPU a network may take")
    parser.add_argument("--memory", type=float, default=12, help="GiB a network may take")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--results", type=Path, default=Path("zoo_sweep.jsonl"), help="file that results are kept in")
    return parser.parse_args()


if __name__ == "__main__":
    main()
