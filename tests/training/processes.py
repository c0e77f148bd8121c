"""What one of two processes finds, as JSON; run by test_processes through torchrun."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from fakes import batch_norm, blobs, mlp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from prunefuse_al import PrunedProxySelector
from prunefuse_al.errors import InputError
from prunefuse_al.training import EarlyStopping, TorchTrainer

warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
HERE = Accelerator(cpu=True)
RANK = HERE.process_index
X, Y = blobs(51)
X = X.double()
QUICK: dict[str, Any] = {"epochs": 4, "batch_size": 8, "progress": False}
WEIGHTS = torch.linspace(0.1, 3, 51, dtype=torch.float64)


def network(seed: int = 0) -> nn.Module:
    return mlp(6, 8, 3, seed=seed).double()


class Seen:
    """A metric that counts rows, and a callback that counts what it is told."""

    def __init__(self) -> None:
        self.rows, self.told = 0, 0

    def reset(self) -> None:
        self.rows = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.rows += len(labels)

    def compute(self) -> int:
        return self.rows

    def begin(self, model: nn.Module, epochs: int) -> None:
        self.told += 1

    def end_epoch(self, model: nn.Module, row: Any) -> None:
        self.told += 1

    def end(self, history: Any) -> None:
        self.told += 1


def labels_sum(logits: Tensor, labels: Tensor) -> float:
    return float((labels * torch.arange(len(labels))).sum()) + float(logits.sum())


def trained(data: Any, options: dict[str, Any], **place: Any) -> tuple[dict[str, Tensor], list[dict[str, float]], int]:
    model = network()
    history = TorchTrainer(**QUICK, **options, **place).fit(model, data, seed=0)
    return model.state_dict(), list(history.epochs), history.samples


def apart(data: Any, **options: Any) -> float:
    """Return how far training in two processes is from training in one: weights, history and rows presented."""
    one, rows, samples = trained(data, options, device="cpu")
    two, others, presented = trained(data, options, accelerator=HERE)
    numbers = [abs(row[name] - other[name]) for row, other in zip(rows, others, strict=True) for name in row]
    return max([abs(samples - presented), *numbers, *(float((one[name] - two[name]).abs().max()) for name in one)])


def rows_read(n: int) -> list[int]:
    """Return how many rows went through the network here, and whether all came back in order."""
    model, rows = network(), 0

    def count(module: nn.Module, args: Any) -> None:
        nonlocal rows
        rows += len(args[0])

    alone = TorchTrainer(device="cpu").infer(model, X[:n]).logits
    model.register_forward_pre_hook(count)
    shared = TorchTrainer(accelerator=HERE, eval_batch_size=4).infer(model, X[:n]).logits
    assert alone is not None
    assert shared is not None
    return [rows, int(torch.allclose(alone, shared))]


def refused(call: Callable[[], Any]) -> str:
    try:
        call()
    except InputError as error:
        return str(error)
    return "nothing was refused"


def fit(seed: int = 0, data: Any = (X, Y), start: int = 0, **options: Any) -> Any:
    return TorchTrainer(**{**QUICK, **options}, accelerator=HERE).fit(network(start), data, seed=seed)


def query(seed: int = 0, candidates: Any = None, k: int = 3) -> Any:
    trainer = TorchTrainer(**QUICK, accelerator=HERE)
    selector = PrunedProxySelector(network(), trainer=trainer, random_state=seed, scorer="random").prepare(X)
    return selector.query(X, k, candidates)


def picks() -> dict[str, list[int]]:
    """Return what scorers of several kinds pick with a network of batch norms, each of which sees its rows alone."""
    floats, trainer = X.float(), TorchTrainer(**QUICK, eval_batch_size=8, accelerator=HERE)

    def fresh() -> PrunedProxySelector:
        return PrunedProxySelector(batch_norm(), trainer=trainer, random_state=0)

    fitted = fresh().fit(floats[:30], Y[:30])
    found = {name: fitted.select(floats, 5, scorer=name).indices.tolist() for name in ("margin", "badge", "k_center")}
    found |= {name: fresh().coreset(floats, 0.2, Y, scorer=name).indices.tolist() for name in ("aum", "ccs", "grand")}
    return found | {"random": query().tolist()}


def refusals() -> dict[str, str]:
    other, more = X.clone(), Y.clone()
    other[0] += RANK
    more[3] = (more[3] + RANK) % 3
    return {
        "seed": refused(lambda: fit(seed=RANK + 7)),
        "epochs": refused(lambda: fit(epochs=3 + RANK)),
        "rows": refused(lambda: fit(data=(X[: 50 + RANK], Y[: 50 + RANK]))),
        "labels": refused(lambda: fit(data=(X, more))),
        "inputs": refused(lambda: fit(data=(other, Y))),
        "network": refused(lambda: fit(start=RANK)),
        "few": refused(lambda: fit(batch_size=1)),
        "pool": refused(lambda: TorchTrainer(accelerator=HERE).infer(network(), other)),
        "asked": refused(lambda: TorchTrainer(accelerator=HERE).infer(network(RANK), X)),
        "candidates": refused(lambda: query(candidates=torch.arange(20 + RANK))),
        "k": refused(lambda: query(k=3 + RANK)),
        "random_state": refused(lambda: query(seed=RANK)),
    }


def sharded() -> dict[str, Any]:
    """Train what fusing gave with its weights spread over processes, by a loop of one's own."""
    selector = PrunedProxySelector(network(), trainer=TorchTrainer(**QUICK, accelerator=HERE), random_state=0)
    target = selector.fit(X, Y).fuse()
    whole = copy.deepcopy(target)
    fully_shard(target)
    losses = [descended(each) for each in (target, whole)]
    parts = [p.to_local() for p in target.parameters() if isinstance(p, DTensor)]
    counts = [sum(p.numel() for p in each) for each in (parts, whole.parameters())]
    return {"kept": counts[0], "whole": counts[1], "losses": losses}


def descended(model: nn.Module) -> list[float]:
    """Return the losses of some steps on all rows."""
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def main(folder: str) -> None:
    seen = Seen()
    rule = EarlyStopping(patience=9)
    found: dict[str, Any] = {
        "processes": HERE.num_processes,
        "apart": {
            "plain": apart((X, Y)),
            "rows left over": apart((X[:50], Y[:50])),
            "weights": apart((X, Y, WEIGHTS)),
            "class weights": apart((X, Y), class_weight="balanced", early_stopping=rule),
            "clipped": apart((X, Y), grad_clip=0.1),
            "metrics": apart((X, Y), metrics={"rows": seen, "sum": labels_sum}, early_stopping=rule),
        },
        "read": {n: rows_read(n) for n in (1, 3, 5, 50, 51)},
        "refused": refusals(),
        "sharded": sharded(),
    }
    fit(callbacks=[seen])
    found["told"] = seen.told
    found["picks"] = picks()
    Path(folder, f"{RANK}.json").write_text(json.dumps(found))
    HERE.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
