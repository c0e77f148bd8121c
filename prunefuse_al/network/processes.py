"""Several processes that work as one: which rows are whose, what all of them found, and whether they agree.

Every process runs the same program, with the same seed, on the same data. What is cheap, or must come out the same
(cutting, repairing, ranking, a head solved by scikit-learn), each does by itself; what is dear, passing rows through
networks, is shared out, and all get what came of it. So only training and reading know of processes, and a query, which
takes the picks of the first; what depends on processes being alike is looked at where it begins: seeds, data, networks.
An `Accelerator` of Hugging Face's accelerate is handed in, and never imported.

A batch is the same rows as in one process, each process having a part, and a loss that is a mean over rows has the same
gradient but for rounding. Batch norm is the exception: it sees the part alone, as with torch's DistributedDataParallel.
A last batch that has not a row for each process joins the one before, as a single row does in one process.
What goes wrong in one process alone ends it, and the launcher ends the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import ArrayDataset, batches, given_labels, leaves, rooted, subset
from ..errors import InputError
from .freezing import frozen_tensors

_LOOKED_AT = 64  # numbers of each tensor of a network, by which networks are compared
_NEAR = 1e-2  # how far they may be apart: what each process computed by itself is rounded by its own device
_LIMIT = 2**64


class Processes:
    """One process, or those of an `accelerate.Accelerator`.

    Attributes:
        count: how many.
        index: which of them this is, from 0.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.count: int = getattr(accelerator, "num_processes", 1)
        self.index: int = getattr(accelerator, "process_index", 0)

    def part(self, rows: Tensor) -> Tensor:
        """Return this process's rows: parts follow each other, no row is in two, and sizes differ by one at most."""
        return rows.tensor_split(self.count)[self.index]

    def gathered(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, those of the first first; how many are whose may differ."""
        if self.count == 1:
            return values
        values = values.to(self.accelerator.device)
        sizes = self._each(torch.tensor(len(values))).tolist()
        filled = values.new_zeros((max(sizes), *values.shape[1:]))  # numbers, not rows that a network has seen
        filled[: len(values)] = values
        return torch.cat([part[:size] for part, size in zip(self._each(filled), sizes, strict=True)])

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over processes."""
        if self.count == 1:
            return values
        reduced: Tensor = self.accelerator.reduce(values, reduction="mean")
        return reduced

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over processes, where the values lie."""
        if self.count == 1:
            return values
        reduced: Tensor = self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")
        return reduced.to(values.device)

    def of_first(self, values: Tensor) -> Tensor:
        """Return the first process's values, of the same shape in all, where they lie."""
        return values if self.count == 1 else self._each(values)[0].to(values)

    def align_buffers(self, model: nn.Module) -> None:
        """Give every process the mean of the running statistics, so that all hold one network.

        Those of frozen layers are the same everywhere, and a mean of three of them would be rounded.
        """
        if self.count > 1:
            still = frozen_tensors(model)
            for name, buffer in model.named_buffers():
                if buffer.is_floating_point() and name not in still:
                    buffer.copy_(self.mean(buffer.clone()))

    def check_same(self, what: str, network: nn.Module | None = None, data: Any = None, **said: Any) -> None:
        """Raise `InputError` in all processes, with what two of them have, unless all have the same.

        Args:
            what: they are about to do.
            network: compared by some numbers of each parameter, which may be rounded otherwise.
            data: a dataset, compared by its length, its labels and its first and last inputs, as far as they are at
                hand: those of datasets that are read item by item may be drawn anew each time.
            **said: whole numbers below 2**64, which are told as they are, or anything else by its digest.
        """
        if self.count == 1:
            return
        if data is not None:
            said = {"rows": len(data), **said, "data": _seen_of(data)}
        self._check_said(what, said)
        if network is not None:
            self._check_network(what, network)

    def _check_said(self, what: str, said: Mapping[str, Any]) -> None:
        told = [value % _LIMIT if isinstance(value, int) else _digest(value) for value in said.values()]
        each = self._each(torch.from_numpy(np.array(told, np.uint64).view(np.int64)))
        numbers = each.cpu().numpy().view(np.uint64)
        for name, column in zip(said, numbers.T, strict=True):
            other = int((column != column[0]).argmax())
            if column[other] != column[0]:
                how = "" if isinstance(said[name], int) else " (a digest)"
                raise _differ(what, f"{name.replace('_', ' ')}{how}", column[0], column[other], other)

    def _check_network(self, what: str, network: nn.Module) -> None:
        tensors = [tensor.detach().reshape(-1)[:_LOOKED_AT] for tensor in network.parameters()]
        self._check_said(what, {"parameters of the network": [tuple(p.shape) for p in network.parameters()]})
        looked = [tensor.to(self.accelerator.device, torch.float32) for tensor in tensors] or [torch.zeros(1)]
        parts = self._each(torch.cat(looked)).split([len(tensor) for tensor in looked], dim=1)  # [processes b] each
        for (name, _), each in zip(network.named_parameters(), parts, strict=False):
            off = (each - each[0]).abs()
            if bool((off > _NEAR * each[0].abs().max() + 1e-6).any()):
                other, place = divmod(int(off.argmax()), each.shape[1])
                raise _differ(
                    what, f"weight {place} of {name}", float(each[0, place]), float(each[other, place]), other
                )

    def _each(self, values: Tensor) -> Tensor:
        """Return what each process has, of one shape in all, [processes ...]."""
        gathered: Tensor = self.accelerator.gather(values.to(self.accelerator.device)[None].contiguous())
        return gathered


def _digest(value: Any) -> int:
    """Return a number below 2**64 that another value hardly has; of tensors by what they hold."""
    found = hashlib.blake2b(digest_size=8)
    if isinstance(value, Tensor):
        held = value.detach().cpu().contiguous()
        found.update(f"{held.dtype} {list(held.shape)}".encode())
        found.update(held.reshape(-1).view(torch.uint8).numpy().data)
    else:
        found.update(repr(value).encode())
    return int.from_bytes(found.digest(), "big")


def _seen_of(data: Any) -> list[int]:
    """Return digests of what of a dataset is at hand."""
    labels, root = given_labels(data, read=False), rooted(data)[0]
    seen = [] if labels is None else [_digest(labels)]
    if isinstance(root, ArrayDataset) and len(data):
        ends = batches(subset(data, [0, len(data) - 1]), 2, labelled=False)
        seen += [_digest(leaf) for _, x, _, _ in ends for leaf in leaves(x)]
    return seen


def _differ(what: str, name: str, first: Any, other: Any, index: int) -> InputError:
    return InputError(
        f"processes that {what} together differ: {name} {first} in process 0 and {other} in process {index}; "
        "give all of them the same data, the same random_state (or seed) and the same network (torch.manual_seed "
        "before it is made, or one file that all of them load)"
    )
