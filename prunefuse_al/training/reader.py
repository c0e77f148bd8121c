"""`Reader`: what a network says about rows of a dataset, through whoever trains it; nothing else asks a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..costs import Call, PassCounter, Stage
from ..data import common_length, subset
from ..errors import InputError, NonFiniteError
from ..network import SOFTMAX, Outputs, RowStore, as_inputs, head_between, of_trainer, seen_by_scorers, stand_in
from ..scorers import refuse_other_outputs, scores_of
from ..types import Scorer, Signals, Trainer, altered, statement
from .known import Known

CHUNK = 2**18
"""Rows read at once, at most: what a pool of any size needs in memory is their signals and one score per row. Each time
a trainer is asked it may start processes that read, so they are not few."""
VALUES = 2**24
"""Numbers in the signals of the rows read at once: 64 MB in single precision, however many classes and passes."""
_PROBED = 8  # rows by which a head is known
LOGITS = frozenset({"logits"})
INFERRED = frozenset({"logits", "features", "mc_logits"})
"""The signals that a network gives; all others are known otherwise."""


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads signals and scores of one network over one dataset, in parts that fit into memory.

    Attributes:
        trainer: who asks: its `infer` is called.
        network: who is asked; not changed.
        data: map-style dataset.
    """

    trainer: Trainer
    network: nn.Module
    data: Any

    def watched(self, stage: Stage, *others: nn.Module) -> None:
        """Have a stage count what passes through the network, and through others that help it."""
        stage.watch(self.network, *others)

    def ask(self, rows: Tensor, needs: frozenset[str]) -> Signals:
        """Return what the network says about `rows`, int64 [b], which are indices of the data, read at once.

        Raises:
            NonFiniteError: NaN or infinity, naming the rows of the data.
            InputError: the trainer does not give what it was asked for.
        """
        try:
            said = self.trainer.infer(self.network, subset(self.data, rows), needs)
        except NonFiniteError as error:  # the trainer counts rows within the part; name them as the caller does
            bad = list(islice(self._nonfinite(rows, needs), 5))
            raise NonFiniteError(f"rows {bad} of the data are the first that give NaN or infinity; {error}") from error
        if not isinstance(said, Signals):
            raise InputError(
                f"{type(self.trainer).__name__}.infer returned a {type(said).__name__}; it must return Signals, as "
                "prunefuse_al.network.collect(model, data, needs) does"
            )
        signals = seen_by_scorers(replace(said, indices=rows), of_trainer(self.trainer) or Outputs(SOFTMAX))
        missing = sorted(name for name in needs if getattr(signals, name) is None)
        if missing:
            raise InputError(
                f"{type(self.trainer).__name__}.infer was asked for {', '.join(missing)} and gave none; "
                "let it return prunefuse_al.network.collect(model, data, needs), or take a scorer that needs less"
            )
        return signals

    def signals(
        self, rows: Tensor | None = None, needs: frozenset[str] = LOGITS, known: Known | None = None, **kept: Any
    ) -> Signals:
        """Return the signals of `rows`, row by row in that order.

        Args:
            rows: indices of the data, int64 [m]; None: all of it.
            needs: which signals.
            known: what is known of the rows besides: their labels, the training of the network.
            **kept: how a `RowStore` keeps features.
        """
        rows = torch.arange(len(self.data)) if rows is None else rows
        outputs = None
        with RowStore(len(rows), **kept) as store:
            for signals in self._parts(rows, needs, known):
                outputs = signals.outputs
                store.add(_columns(signals, needs))
        return Signals(rows, **_fields(store.tensors, needs), outputs=outputs)

    def scores(
        self, scorer: Any, rows: Tensor, needs: frozenset[str], known: Known | None, beside: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Return a point scorer's scores of `rows`, float [m], and their labels if needed; a score is all that stays.

        Args:
            scorer: a `PointScorer`.
            rows: indices of the data, int64 [m].
            needs: which signals it reads.
            known: see `signals`.
            beside: fields of `Signals` about the labelled samples, which it sees with every part.
        """
        store = RowStore(len(rows))
        for signals in self._parts(rows, needs, known):
            refuse_unread(scorer, signals)
            scores = {"scores": scores_of(scorer, replace(signals, **beside)).cpu()}
            store.add(scores if signals.labels is None else {**scores, "labels": signals.labels})
        return store.tensors["scores"], store.tensors.get("labels")

    def example(self) -> Any:
        """Return what the network is called with for two rows: a tensor, a tuple or a dict, on its device."""
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        call = self._first_call()
        return as_inputs(*tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, call))

    def head(self, rows: Tensor) -> Tensor:
        """Return the linear layer that makes logits of features, its weights and then its bias, float [c d+1].

        Raises:
            UnsupportedModelError: no layer makes these of the features of the first of `rows`.
        """
        said = self.ask(rows[:_PROBED], frozenset({"logits", "features"}))
        assert said.logits is not None
        assert said.features is not None
        return head_between(self.network, said.features, said.logits)

    def inputs(self) -> Any:
        """Return what the network is called with for all rows: a tensor, or a tuple or dict of tensors.

        Raises:
            InputError: it cannot be told.
        """
        calls: list[Any] = []

        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            calls.append(tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, kwargs or args))

        network = stand_in(self.network)
        network.register_forward_pre_hook(note, with_kwargs=True)
        _in_this_process(self.trainer).infer(network, self.data, LOGITS)
        try:
            inputs = tree_map(lambda *parts: torch.cat(parts), *calls) if calls else ()
            inputs = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
            complete = common_length(inputs) == len(self.data)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise self._unusable(f"batches of its calls cannot be joined ({error})") from error
        if not complete:
            raise self._unusable(f"it called the network with {common_length(inputs)} of {len(self.data)} rows")
        return inputs

    def _first_call(self) -> Call:
        """Return what the network is called with for two rows, after the trainer's transforms and conversions."""
        counter, network = PassCounter(), stand_in(self.network)
        network.register_forward_pre_hook(counter.hook(), with_kwargs=True)
        self.trainer.infer(network, subset(self.data, range(min(2, len(self.data)))), LOGITS)
        if not counter.calls:
            raise InputError(
                f"{type(self.trainer).__name__}.infer did not call the network, so its input is not known; pass "
                "example_inputs="
            )
        return next(iter(counter.calls.values()))

    def _parts(self, rows: Tensor, needs: frozenset[str], known: Known | None) -> Iterator[Signals]:
        """Yield the signals of `rows`, as many at once as memory allows."""
        if "dynamics" in needs and known is None:
            raise InputError(
                "dynamics are of a training, not of one look at data: scorers get them in select() and coreset()"
            )
        known = known or Known()
        asked = needs & INFERRED | (LOGITS if needs & {"labels", "dynamics"} and known.labels is None else frozenset())
        start, size = 0, min(CHUNK, 1024)  # few at first, to see how many numbers a row takes
        while start < len(rows):
            part = rows[start : start + size]
            signals = self.ask(part, asked) if asked else Signals(part)
            yield known.added_to(signals, needs, self)
            start += len(part)
            read = (getattr(signals, name) for name in asked)
            numbers = sum(values.numel() for values in read if values is not None)
            size = max(1, min(CHUNK, VALUES * len(part) // max(1, numbers)))

    def _nonfinite(self, rows: Tensor, needs: frozenset[str]) -> Iterator[int]:
        """Yield the rows for which the network cannot be used, by halving."""
        try:
            self.trainer.infer(self.network, subset(self.data, rows), needs)
        except NonFiniteError:
            if len(rows) == 1:
                yield int(rows)
                return
            for half in rows.tensor_split(2):
                yield from self._nonfinite(half, needs)

    def _unusable(self, why: str) -> InputError:
        return InputError(
            f"importance: what {type(self.trainer).__name__}.infer hands to the network cannot be used: {why}; pass "
            "importance=Taylor(inputs, labels), Hessian(inputs, labels) or Activation(inputs) from prunefuse_al.pruning"
        )


def refuse_unread(scorer: Scorer, signals: Signals) -> None:
    """Raise `InputError` where logits are of another kind than the scorer reads, one of the user's own as well."""
    if frozenset(scorer.needs) & {"logits", "mc_logits"}:
        reads = "sigmoid" if getattr(scorer, "outputs", None) == "sigmoid" else "softmax"
        refuse_other_outputs(type(scorer).__name__, signals, reads)


def _columns(signals: Signals, needs: frozenset[str]) -> dict[str, Tensor]:
    """Return what is kept of a part, row by row, by name."""
    found = {name: getattr(signals, name) for name in sorted(needs & (INFERRED | {"labels"}))}
    if "mc_logits" in found:
        found["mc_logits"] = found["mc_logits"].transpose(0, 1)  # [m t c], so that all have rows first
    found |= {f"dynamics {name}": values for name, values in (signals.dynamics or {}).items()}
    return {name: values.detach().cpu() for name, values in found.items()}


def _fields(columns: Mapping[str, Tensor], needs: frozenset[str]) -> dict[str, Any]:
    """Return kept columns as fields of `Signals`."""
    fields: dict[str, Any] = dict(columns)
    if "mc_logits" in fields:
        fields["mc_logits"] = fields["mc_logits"].transpose(0, 1)
    dynamics = {name: fields.pop(name) for name in list(fields) if name.startswith("dynamics ")}
    if "dynamics" in needs:
        fields["dynamics"] = {name.removeprefix("dynamics "): values for name, values in dynamics.items()}
    return fields


def _in_this_process(trainer: Any) -> Any:
    """Return a trainer that reads all rows in this process: every process must choose the same channels."""
    accelerator = statement(trainer).accelerator
    return trainer if accelerator is None else altered(trainer, device=accelerator.device, accelerator=None)
