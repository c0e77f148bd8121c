"""How the core reads a skorch net: its dataset, its ``iterator_valid`` and its `infer`, as when it predicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunefuse_al.adapters import require_host
from prunefuse_al.data import isolated_rng
from prunefuse_al.errors import InputError
from prunefuse_al.network import SIGMOID, SOFTMAX, as_logits, home_device, logits_of, of_loss, read_batch, settled
from prunefuse_al.types import Signals

require_host("skorch", extra="skorch")

from skorch import NeuralNetClassifier  # noqa: E402
from skorch.dataset import ERROR_MSG_1_ITEM, get_len, unpack_data  # noqa: E402


@dataclass(frozen=True)
class NetReader:
    """What the core asks of a trainer, as far as reading goes.

    Attributes:
        net: the net; another network may stand in its module's place while it reads.
        as_logits: make logits of what the module returns; before the net is complete, that cannot be done.
    """

    net: NeuralNetClassifier
    as_logits: bool = False

    @property
    def device(self) -> Any:
        """Where the net computes."""
        return self.net.device

    def fit(self, model: nn.Module, data: Any, *, teacher: nn.Module | None = None, seed: int | None = None) -> None:
        """Refuse: a net is trained by skorch's own loop.

        Raises:
            InputError: always.
        """
        raise InputError(f"{type(self.net).__name__} trains by skorch's own loop: call its fit or fit_target")

    def infer(self, model: nn.Module, data: Any, needs: frozenset[str]) -> Signals:
        """Return the signals in `needs` for every row of `data`, a dataset, in order; `model` stays as it is."""
        device, seed = home_device(model) or torch.device("cpu"), self.net.entropy_ % 2**63
        with isolated_rng(seed, device), self._answering(model), settled(model, device=device), torch.inference_mode():
            batches = [self._read(model, batch, needs, seed) for batch in self.net.get_iterator(data, training=False)]
        fields: dict[str, Any] = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        kind = None
        if self.as_logits:
            fields["logits"], kind = self.seen(fields["logits"], "query")
        if "mc_logits" in fields:
            passes = fields["mc_logits"].transpose(0, 1)  # [t n c]
            if self.as_logits:
                passes = self.seen(passes.flatten(0, 1), "query")[0].unflatten(0, passes.shape[:2])
            fields["mc_logits"] = passes
        return Signals(torch.arange(len(data)), **fields, outputs=kind)

    def _read(self, model: nn.Module, batch: Any, needs: frozenset[str], seed: int) -> dict[str, Tensor]:
        if isinstance(batch, Tensor):  # of two rows, it would pass for a pair
            raise InputError(ERROR_MSG_1_ITEM)
        inputs = tuple(part for part in batch if part is not None)
        forward = partial(self._forward, batch)
        return read_batch(model, forward, needs, inputs=inputs, rows=get_len(inputs[0]), seed=seed)

    def _forward(self, batch: Any) -> Tensor:
        return logits_of(self.net.infer(unpack_data(batch)[0]))

    def answer(self, model: nn.Module, x: Any, params: dict[str, Any]) -> Tensor:
        """Return what `model`, in the mode it is in, gives for inputs as skorch's `infer` takes them."""
        with self._answering(model):
            return logits_of(self.net.infer(x, **params))

    def seen(self, outputs: Tensor, call: str) -> tuple[Tensor, str]:
        """Return a module's outputs [n ...] as scorers see them, and of which kind they are.

        They are what the criterion takes; where that does not say, what skorch's nonlinearity makes of them.
        """
        criterion = uncompiled(self.net.criterion_)
        known = of_loss(criterion) if self.net.predict_nonlinearity == "auto" else None
        if known is not None and (known.kind == SIGMOID or isinstance(criterion, nn.CrossEntropyLoss)):
            return known.seen(outputs)
        p: Tensor = self.net._get_predict_nonlinearity()(outputs)
        sums_to_one = p.ndim > 1 and torch.allclose(p.sum(1), p.new_ones(()), atol=1e-3)
        if bool(p.isfinite().all()) and not (sums_to_one and bool((p >= 0).all())):  # scorers name what is not finite
            raise InputError(
                f"{call}: with {type(criterion).__name__}, predict_proba gives rows such as {p[0].tolist()}, "
                "which are no probabilities; pass predict_nonlinearity=, a function of the module's output"
            )
        return as_logits(p), SOFTMAX

    @contextmanager
    def _answering(self, model: nn.Module) -> Iterator[None]:
        """Have `model` in the place that `infer` calls."""
        before, self.net.module_ = self.net.module_, model
        try:
            yield
        finally:
            self.net.module_ = before


def uncompiled(module: Any) -> Any:
    """Return the module that `torch.compile` wrapped, or `module` itself."""
    return getattr(module, "_orig_mod", module)
