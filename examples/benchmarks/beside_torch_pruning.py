"""Torch-Pruning and `prune` on the same networks: which come out right, and how long it takes.

    pip install torch-pruning timm transformers
    python examples/benchmarks/beside_torch_pruning.py [--full] [--only NAME ...]

Every family of `examples/zoo.py` is cut to half its channels by both, each in a process of its own with a time limit.
Both are told the same: a model and example inputs (Torch-Pruning also which layer makes the logits: it has to be told).
Both results are judged in the same way:

* crashes: it raises, or does not come back within the limit;
* outputs: the shape of what the network answers with has changed;
* unpruned: more than 0.9 of the parameters are left, without a word;
* wrong: with generic weights and everything that flows from removed channels into kept ones switched off, the dense
  network does not compute what the pruned one computes: channels are out of line;
* works: none of these.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.zoo import FAMILIES, Family
from prunefuse_al import fuse, prune
from prunefuse_al.costs.counting import parameter_count
from prunefuse_al.fusing.channel_map import ChannelMap, TensorMap
from prunefuse_al.network.example import answers, as_arguments
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning.gate import Candidate, inspect
from prunefuse_al.pruning.groups import Structure, structure
from prunefuse_al.pruning.subject import subject


def call(module: nn.Module, inputs: Any) -> Any:
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def reference_seconds(network: nn.Module, inputs: Any) -> float:
    """Return the seconds of one deep copy and one forward and backward pass.

    In eval mode: while it trains, inception_v3 passes the picture on to a second head, which wants it at full size.
    """
    start = time.perf_counter()
    outputs = answers(call(copy.deepcopy(network).eval(), inputs))
    sum(t.float().square().mean() for t in outputs if t.requires_grad).backward()
    return time.perf_counter() - start


def torch_pruned(network: nn.Module, inputs: Any) -> nn.Module:
    """Prune a copy with Torch-Pruning, at its defaults, its logits protected."""
    import torch_pruning

    out = copy.deepcopy(network)
    classes = {t.shape[-1] for t in answers(call(out, inputs))} | {t.shape[1] for t in answers(call(out, inputs))}
    heads = [m for m in out.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] in classes]
    pruner = torch_pruning.pruner.MetaPruner(
        out,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=heads[-1:],
        output_transform=lambda output: sum(t.sum() for t in answers(output)),
    )
    pruner.step()
    return out.train(network.training)


def kept_indices(dense: Tensor, pruned: Tensor) -> tuple[Tensor | None, ...] | None:
    """Find out which entries of a tensor were kept, by their values; None where they are no such entries."""
    if dense.shape == pruned.shape and torch.equal(dense, pruned):
        return (None,) * dense.ndim
    values, wanted = dense.detach().numpy().ravel(), pruned.detach().numpy()
    order = np.argsort(values)
    found = np.searchsorted(values, wanted, sorter=order).clip(max=len(values) - 1)
    strides = np.cumprod([1, *dense.shape[:0:-1]])[::-1]
    places = [order[found] // stride % size for stride, size in zip(strides, dense.shape, strict=True)]
    kept = []
    for dim, place in enumerate(places):
        line = place[tuple(slice(None) if d == dim else 0 for d in range(dense.ndim))]
        kept.append(torch.from_numpy(np.ascontiguousarray(line)))
    again = dense
    for dim, index in enumerate(kept):
        again = again.index_select(dim, index)
    same = again.shape == pruned.shape and torch.equal(again, pruned)
    return tuple(None if len(k) == n else k for k, n in zip(kept, dense.shape, strict=True)) if same else None


def judge(network: nn.Module, pruned: nn.Module, inputs: Any, inputs_of: ChannelMap) -> str:
    """Return what became of a network: "works", "unpruned", "outputs" or "wrong"."""
    expected = [t.shape for t in answers(call(network.eval(), inputs))]
    if [t.shape for t in answers(call(pruned.eval(), inputs))] != expected:
        return "outputs"
    if parameter_count(pruned) > 0.9 * parameter_count(network):
        return "unpruned"
    dense, thin = named_tensors(network), named_tensors(pruned)
    if dense.keys() != thin.keys():
        return "wrong"
    maps = {}
    for name, tensor in dense.items():
        kept = kept_indices(tensor, thin[name]) if tensor.is_floating_point() else (None,) * tensor.ndim
        if kept is None:
            return "wrong"
        maps[name] = TensorMap(tuple(tensor.shape), kept, inputs_of.tensors[name].inputs)
    examined = subject(network, as_arguments(inputs, network))
    reading = structure(examined.trace, {})
    candidate = Candidate(pruned, ChannelMap(maps), reading, alive(reading, maps))
    return "wrong" if inspect(candidate, examined).reason else "works"


def alive(reading: Structure, maps: dict[str, TensorMap]) -> np.ndarray:
    """Return bool [components]: which channels a map keeps."""
    out = np.zeros(int(reading.components.max()) + 1, dtype=bool)
    for axis in reading.trace.atoms.axes:
        kept = maps[axis.name].kept[axis.dim]
        own = reading.components[axis.start : axis.start + axis.size]
        out[own if kept is None else own[kept.numpy()]] = True
    return out


def measure(family: Family, full: bool, limit: float) -> dict[str, Any]:
    """Prune one family with both, taking turns; return verdicts, shares of parameters and medians of seconds."""
    network = family.build(full).double()
    inputs = tree_map(lambda x: x.double() if x.is_floating_point() else x, family.example(full))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # values that are all different tell what was kept
        torch.manual_seed(3)
        for tensor in named_tensors(network).values():
            if tensor.is_floating_point():
                spread = tensor.std() if tensor.ndim > 1 and tensor.std() > 0 else 0.1
                tensor.add_(0.1 * spread * (torch.rand_like(tensor) - 0.5))  # no drift, which would drown differences
    ours = prune(network, inputs, 0.5)
    found: dict[str, Any] = {"ours": judge(network, ours.module, inputs, ours.channel_map)}
    found["our share"] = parameter_count(ours.module) / parameter_count(network)
    plain, example = family.build(full), family.example(full)
    prune(plain, example, 0.5)  # the first call imports a part of torch
    start, rounds = time.perf_counter(), []
    while len(rounds) < 3 and (not rounds or time.perf_counter() - start < limit / 4):
        reference, begin = reference_seconds(plain, example), time.perf_counter()
        fuse(plain, prune(plain, example, 0.5))
        rounds.append((reference, time.perf_counter() - begin))
    found["reference s"], found["our s"] = np.median(rounds, 0).tolist()
    print(json.dumps(found), flush=True)  # so that it is known even if the peer does not come back
    try:
        torch_pruned(plain, example)
        begin = time.perf_counter()
        torch_pruned(plain, example)
        found["their s"] = time.perf_counter() - begin
        theirs = torch_pruned(network, inputs)
        found["theirs"] = judge(network, theirs, inputs, ours.channel_map)
        found["their share"] = parameter_count(theirs) / parameter_count(network)
    except Exception as error:
        found["theirs"] = f"crashes: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:60]}"
    return found


def in_a_process(name: str, full: bool, limit: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--limit", str(limit), *(["--full"] if full else [])]
    late, errors = f"crashes: not back within {limit:g} s", ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        text, errors = done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        text = (expired.stdout or b"").decode()
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if lines:
        return {"theirs": late, **json.loads(lines[-1])}
    reason = f"crashes: {errors.splitlines()[-1][:60]}" if errors else late
    return {"ours": reason, "theirs": "not tried"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of family names")
    parser.add_argument("--full", action="store_true", help="the full-size networks")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one family")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    by_name = {f"{group}/{name}": family for (group, name), family in FAMILIES.items()}
    if options.one:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(by_name[options.one], options.full, options.limit)), flush=True)
        return
    verdicts: dict[str, Counter[str]] = {"ours": Counter(), "theirs": Counter()}
    print(f"{'network':34} {'ours':8} {'share':>5} {'x ref':>6}   {'Torch-Pruning':40} {'share':>5} {'x ref':>6}")
    for name in by_name:
        if options.only and not any(part.lower() in name.lower() for part in options.only):
            continue
        found = in_a_process(name, options.full, options.limit)
        for who, counter in verdicts.items():
            counter[found[who].partition(":")[0]] += 1
        ratio = lambda key: found[key] / found["reference s"] if key in found else float("nan")  # noqa: B023, E731
        print(
            f"{name:34} {found['ours']:8} {found.get('our share', float('nan')):5.2f} {ratio('our s'):6.1f}   "
            f"{found['theirs'][:40]:40} {found.get('their share', float('nan')):5.2f} {ratio('their s'):6.1f}",
            flush=True,
        )
    print("x ref: seconds over those of one deep copy and one forward and backward pass (ours: prune and fuse)")
    for who, counter in verdicts.items():
        print(f"{who}: " + ", ".join(f"{count} {verdict}" for verdict, count in counter.most_common()))


if __name__ == "__main__":
    main()
