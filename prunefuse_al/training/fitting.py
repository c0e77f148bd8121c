"""The training loop behind `TorchTrainer.fit`: checks first, then epochs, the last good weights always at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from ..data import BatchLoader, check_finite, check_weights, isolated_rng, labels_of, nonfinite_rows, subset
from ..errors import InputError, NonFiniteError
from ..network import (
    STEPS_TO_TRAIN,
    VALUES,
    Compiled,
    Forward,
    Processes,
    check_first,
    compiled,
    explained,
    forgetting,
    forward_for,
    logits_of,
    settled,
    squashed_by,
)
from .callbacks import Told, telling
from .distillation import Distillation, distillation_loss
from .fused import unfused_where_sparse
from .loss_labels import INDEPENDENT, OWN, zeros_and_ones
from .losses import Objective, check_loss, class_weight_tensor, weighted_mean
from .metrics import Measured
from .placement import Weights, in_training, prepared, repeatable
from .plan import Plan, TrainingHistory
from .progressive import OnEpoch
from .recording import Recorder
from .stopping import Watch


class Run:
    """One training of one network on one dataset."""

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        dataset: Any,
        teacher: nn.Module | None,
        on_epoch: OnEpoch | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.plan, self.model, self.data, self.on_epoch, self.recorder = plan, model, dataset, on_epoch, recorder
        self.teacher = teacher if plan.distillation is not None else None
        self.params = [p for p in model.parameters() if p.requires_grad]
        if not self.params:
            count = len(list(model.parameters()))
            raise InputError(
                f"none of the {count} parameters of the network requires a gradient, so there is nothing to train: "
                "unfreeze some with requires_grad_()"
            )
        self.processes = Processes(plan.accelerator)
        if on_epoch is not None and self.processes.count > 1:
            raise InputError(
                f"a network cannot change its widths while {self.processes.count} processes train it: gradients are "
                "exchanged in buckets of fixed size; leave out progressive=, or train the proxy in one process"
            )
        self.dataset, self.validation, self.kept = dataset, plan.validation, torch.arange(len(dataset))
        if plan.early_stopping is not None and plan.early_stopping.holds_out:
            parts = plan.early_stopping.split(len(dataset), labels_of(dataset, read=False), plan.seed)
            self.dataset, self.validation = (subset(dataset, rows) for rows in parts)
            self.kept = parts[0]
        self.rows: list[dict[str, float]] = []  # of the history, one for each epoch
        self.best_epoch: int | None = None
        self.samples, self.stopped_early = 0, False
        self.fast: Compiled | None = None
        self.nonfinite_labels: list[int] = []

    def go(self) -> TrainingHistory:
        """Train; on any failure the network has the weights of its last good epoch (or its first ones)."""
        plan, start = self.plan, time.perf_counter()
        with (
            isolated_rng((plan.seed + self.processes.index) % 2**64, plan.device),  # no two draw the same dropout
            repeatable(plan.deterministic),
            in_training(self.model, plan.device, channels_last=plan.channels_last),
            settled(self.teacher, device=plan.device),
            forgetting(self.model, self.steps) if plan.batchnorm == "auto" else nullcontext(),
        ):
            self.last_good = Weights(self.model)
            try:
                self._set_up()
                told = Told(self.model, lambda: self.last_good.unchanged(), plan.device, plan.seed)
                with telling(plan.callbacks if self.processes.index == 0 else (), told, plan.epochs) as self.told:
                    with prepared(plan.accelerator, self.model, self._compiled(), self.optimizer) as (net, optimizer):
                        self.net, self.stepper = net, optimizer
                        self._epochs()
                    told.history = self._history(time.perf_counter() - start)
            except BaseException:
                self.last_good.restore()
                raise
        return told.history

    def _history(self, seconds: float) -> TrainingHistory:
        told = (tuple(self.rows), self.best_epoch, self.stopped_early, self.samples, seconds)
        return TrainingHistory(*told, compiled=self.fast is not None)

    # ---- before the first epoch ----

    def _set_up(self) -> None:
        plan = self.plan
        self._check_processes()
        self.loader = self._loader(self.dataset, plan.batch_size)
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.forward = self._forward(plan.transform)
        self.eval_forward = self._forward(plan.eval_transform)
        check_loss(plan.loss)
        output, y = self._probe()
        self.objective = Objective(plan.loss, _full(logits_of(output)), plan.outputs)
        known = labels_of(self.dataset, read=isinstance(plan.class_weight, str))  # "balanced"
        self._check_first(output, y, known)
        held = None if self.validation is None else labels_of(self.validation, read=False)
        for labels, rows in ((known, self.kept), (held, None)):
            if labels is not None:
                self.objective.asked.check(labels, rows, len(self.data) if rows is not None else 0)
        self._check_outputs(logits_of(output))
        numbers = self.objective.asked.numbers(known)
        class_weights = class_weight_tensor(plan.class_weight, numbers, self.objective.classes)
        self.objective.class_weights = None if class_weights is None else class_weights.to(plan.device)
        self.optimizer = plan.make_optimizer(self.params)
        self.schedule = plan.make_schedule(self.optimizer)
        self.measured, self.held_measured = (Measured(plan.metrics, plan.device, plan.seed) for _ in range(2))
        self.scaler = torch.amp.GradScaler(plan.device.type) if plan.autocast == torch.float16 else None
        if self.recorder is not None:
            self.recorder.begin(len(self.data), plan.epochs)

    def _check_processes(self) -> None:
        """Raise `InputError` unless all processes are about to do the same, and each has a row of every batch."""
        plan, count, smallest = self.plan, self.processes.count, min(self.plan.batch_size, len(self.dataset))
        normed = any(isinstance(module, _BatchNorm) for module in self.model.modules())
        self.least = max(2, 2 * count if normed else count)  # rows of a batch: batch norm cannot train on one row
        steps = {"seed": plan.seed, "epochs": plan.epochs, "batch_size": plan.batch_size}
        self.processes.check_same("train", self.model, self.data, **steps)
        if count > 1 and smallest < self.least:
            raise InputError(
                f"{count} processes share the rows of a batch, and here it has {smallest} "
                f"(batch_size={plan.batch_size}, {len(self.dataset)} rows to train on): each needs a row, with batch "
                f"norm two; pass {self.least} or more"
            )

    def _loader(self, dataset: Any, size: int) -> BatchLoader:
        plan = self.plan
        reading: dict[str, Any] = {"num_workers": plan.num_workers, "seed": plan.seed, "collate": plan.collate}
        return BatchLoader(dataset, size, network=self.model, device=plan.device, **reading)

    def _forward(self, transform: Any) -> Forward:
        plan = self.plan
        return forward_for(
            self.model, plan.device, transform=transform, autocast=plan.autocast, channels_last=plan.channels_last
        )

    def _probe(self) -> tuple[Any, Any]:
        """Pass two rows, in eval mode, so that what cannot work fails now; return what came out, and the labels."""
        _, x, y, _ = next(self.loader.batches(torch.arange(min(2, len(self.dataset)))))
        self._check_given(y)
        if len(nonfinite_rows(x)):
            self._check_finite()
        self.model.eval()
        with explained(self.model, x):
            inputs = self.forward.inputs(x)
            with torch.enable_grad():  # the graph tells what the network ends in
                output = self.forward(self.model, inputs)
            if self.teacher is not None:
                with torch.no_grad():
                    taught = logits_of(self.forward(self.teacher, inputs))
                logits = logits_of(output)
                if taught.shape != logits.shape:
                    shapes = f"the teacher gives {list(taught.shape)}, the network {list(logits.shape)}"
                    raise InputError(f"{shapes}: distillation needs the same outputs")
        return output, y

    def _check_first(self, output: Any, y: Any, known: Tensor | None) -> None:
        """Raise `InputError` where what is taken for the logits of two rows, with labels y, are no logits.

        `known`: all labels, where they are at hand.
        """
        asked, labels = self.objective.asked, y if known is None else known
        numbers = asked.numbers(known)
        most = None if numbers is None else int(numbers.max()) + 1
        check_first(output, logits_of(output), lambda other: asked.fits(labels, other), most)

    def _check_outputs(self, logits: Tensor) -> None:
        """Raise `InputError` where what the network gives is not what the loss takes, or nobody could use."""
        objective, plan = self.objective, self.plan
        if not plan.stated:
            objective.check_ending(squashed_by(logits), logits.detach())
        if self.teacher is not None and plan.outputs is not None and plan.outputs.kind == VALUES:
            raise InputError(
                f"distillation compares probabilities, and {objective.name} is a loss of values: leave it out, or say "
                "what its outputs are by TorchTrainer(outputs=...)"
            )
        if self.recorder is not None and objective.classes is None:
            raise InputError(
                f"training dynamics compare logits of classes with the class of each row, and {objective.name} is no "
                "loss of classes of which a row has one: take a scorer that reads none, such as ml_entropy for "
                "independent labels, or train without a recorder"
            )

    def _compiled(self) -> nn.Module:
        if self.plan.compile_options is None:
            return self.model
        net: nn.Module = torch.compile(self.model, **self.plan.compile_options)  # type: ignore[assignment]
        return net

    @property
    def steps(self) -> int:
        """How many steps the training takes if it is not stopped early."""
        return self.plan.epochs * -(-len(self.dataset) // self.plan.batch_size)

    def _compiling_pays(self) -> bool:
        """Return whether compile="auto" compiles this training: long enough, and of one width throughout."""
        return self.plan.compile_itself and self.on_epoch is None and self.steps >= STEPS_TO_TRAIN

    # ---- epochs ----

    def _epochs(self) -> None:
        plan = self.plan
        watch, best = self._watched()
        bar = tqdm(
            total=plan.epochs, disable=None if plan.progress and self.processes.index == 0 else True, unit="epoch"
        )
        with bar:
            for epoch in range(1, plan.epochs + 1):
                if self.on_epoch is not None and self.on_epoch(epoch - 1, self.optimizer):
                    self.last_good = Weights(self.model)  # earlier ones may be of another shape
                    watch, best = self._watched()
                row = {"epoch": epoch, "lr": float(self.optimizer.param_groups[0]["lr"]), **self._train(epoch)}
                if self.validation is not None:
                    row |= self._evaluate(epoch)
                self.last_good.keep()
                if self.recorder is not None:
                    self.recorder.end_epoch(epoch, self.model, row["lr"], self.processes.total)
                self.rows.append(row)
                self.told.end_epoch(row)
                self._step_schedule(row)
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                if watch is None:
                    continue
                if watch.improved(row):
                    if best is not None:
                        best.keep()
                elif watch.exhausted(epoch):
                    self.stopped_early = epoch < plan.epochs
                    break
        if watch is not None and best is not None:
            best.restore()
            self.last_good.keep()
            self.best_epoch = watch.best_epoch

    def _watched(self) -> tuple[Watch | None, Weights | None]:
        """Return who follows what early stopping goes by, and where the best weights are kept, if they are."""
        rule = self.plan.early_stopping
        if rule is None:
            return None, None
        return Watch(rule), Weights(self.model) if rule.keeps_best else None

    def _train(self, epoch: int) -> dict[str, float]:
        """Train one epoch; return mean loss and accuracy over it (of the weights as they were at each step)."""
        self.model.train()
        order = torch.randperm(len(self.dataset), generator=self.generator)
        chunks = _chunks(order, self.plan.batch_size, self.least)
        share = 0.0 if self.teacher is None else self._distillation.weight(epoch - 1, self.plan.epochs)
        losses: list[Tensor] = []
        hits: list[Tensor] = []
        sizes = [len(chunk) for chunk in chunks]
        parts = self.loader.of([self.processes.part(chunk) for chunk in chunks])
        for size, (rows, x, y, w) in zip(sizes, parts, strict=True):
            if epoch == 1:
                self._check_batch(x, y, w, self.kept[rows], len(self.data))
            with explained(self.model, x) if not losses else nullcontext():
                loss, hit = self._step(rows, x, y, w, share, size, first=epoch == 1 and not losses)
            losses.append(loss)
            hits.append(hit)
        self.samples += sum(sizes)
        self.processes.align_buffers(self.model)
        right = self.processes.total(torch.stack(hits).float())
        return self._summary(epoch, torch.stack(losses), right, sizes) | self.measured.values()

    def _step(
        self, rows: Tensor, x: Any, y: Any, w: Tensor | None, share: float, size: int, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        plan, device, objective = self.plan, self.plan.device, self.objective
        inputs, y = self.forward.inputs(x), y.to(device, non_blocking=True)
        if first and self._compiling_pays():
            self.fast = compiled(self.model, inputs, self.forward, trained=True)
        w = None if w is None else w.to(device, non_blocking=True)
        logits = self._logits(self.fast or self.net, inputs)
        y = objective.asked.aligned(y, logits)
        if self.recorder is not None:
            self.recorder.see(self.kept[rows], *objective.answered(logits, y))
        if self.measured:
            self.measured.see(*(self.processes.gathered(values.detach()) for values in (logits, y)))
        loss = (objective.watched if first else objective)(logits, y, w)
        if share and self.teacher is not None:
            with torch.no_grad():
                taught = self._logits(self.teacher, inputs)
            kl = distillation_loss(logits, taught, self._distillation.tau, outputs=plan.outputs)
            loss = (1 - share) * loss + share * weighted_mean(kl, objective.weights(y, w, kl))
        if self.processes.count > 1:  # which take the mean of their gradients
            loss = loss * self._weight_of_part(objective.weights(y, w, logits), len(rows), size)
        self.stepper.zero_grad(set_to_none=True)
        self._backward(loss)
        if first:
            unfused_where_sparse(self.optimizer)
        if plan.grad_clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            clip = torch.nn.utils.clip_grad_norm_ if plan.accelerator is None else plan.accelerator.clip_grad_norm_
            clip(self.params, plan.grad_clip)
        if self.scaler is None:
            self.stepper.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach(), objective.hits(logits.detach(), y)

    def _weight_of_part(self, weights: Tensor | None, rows: int, size: int) -> float:
        """Return what makes the mean over processes of this one's loss, a mean over its rows, that of the batch."""
        if weights is None:
            return rows * self.processes.count / size
        own = weights.detach().sum().reshape(1)
        return float(own / self.processes.mean(own.clone()).clamp_min(torch.finfo(own.dtype).tiny))

    @property
    def _distillation(self) -> Distillation:
        assert self.plan.distillation is not None  # there is a teacher only with one
        return self.plan.distillation

    def _logits(self, net: Callable[..., Any], inputs: Any) -> Tensor:
        accelerator = self.plan.accelerator
        with accelerator.autocast() if accelerator is not None else nullcontext():
            return _full(logits_of(self.forward(net, inputs)))

    def _backward(self, loss: Tensor) -> None:
        if self.plan.accelerator is not None:
            self.plan.accelerator.backward(loss)
        elif self.scaler is not None:
            self.scaler.scale(loss).backward()
        else:
            loss.backward()

    def _step_schedule(self, row: dict[str, float]) -> None:
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(row.get("val_loss", row["loss"]))
        elif self.schedule is not None:
            self.schedule.step()

    def _evaluate(self, epoch: int) -> dict[str, float]:
        """Return loss and accuracy on the held-out rows, each process seeing all of them."""
        losses: list[Tensor] = []
        hits: list[Tensor] = []
        sizes: list[int] = []
        self.model.eval()
        loader = self._loader(self.validation, self.plan.eval_batch_size)
        with torch.no_grad():
            y: Any
            for rows, x, y, w in loader.batches():
                if epoch == 1:
                    self._check_batch(x, y, w, rows, len(self.validation))
                inputs, y = self.eval_forward.inputs(x), y.to(self.plan.device)
                logits = self._logits(self.model, inputs)
                y = self.objective.asked.aligned(y, logits)
                losses.append(self.objective(logits, y, None if w is None else w.to(self.plan.device)))
                hits.append(self.objective.hits(logits, y))
                self.held_measured.see(logits, y)
                sizes.append(len(rows))
        right = self.processes.mean(torch.stack(hits).float())
        found = self._summary(epoch, torch.stack(losses), right, sizes, "validation loss")
        found |= self.held_measured.values()
        return {f"val_{name}": value for name, value in found.items()}

    # ---- what is said when it goes wrong ----

    def _check_batch(self, x: Any, y: Any, w: Any, rows: Tensor, total: int) -> None:
        """Raise where a batch of the first epoch, `rows` of data of `total` rows, cannot be trained on."""
        self._check_given(y)
        asked = self.objective.asked
        asked.check(y, rows, total)
        if asked.kind == INDEPENDENT and self.recorder is not None and not zeros_and_ones(y):
            raise InputError("training dynamics need labels of 0 or 1, and some lie between: train without a recorder")
        if asked.kind == OWN:  # which may leave such labels out, or not
            self.nonfinite_labels += rows[nonfinite_rows(y)].tolist()
        if w is not None:
            check_weights(w, rows, total)
        if bad := len(nonfinite_rows(x)):
            self._check_finite()
            raise NonFiniteError(f"inputs hold NaN or infinity in {bad} rows of a batch")  # the dataset is random

    def _check_given(self, y: Any) -> None:
        if y is None:
            raise InputError(
                "labels are needed for training and the data has none: pass (X, y), or a Dataset of (x, y)"
            )

    def _check_finite(self) -> None:
        """Raise `NonFiniteError` naming all rows that are not finite, not only those of a batch."""
        check_finite(self.data, collate=self.plan.collate, network=self.model)

    def _summary(
        self, epoch: int, losses: Tensor, hits: Tensor, sizes: list[int], what: str = "loss"
    ) -> dict[str, float]:
        """Return the means over rows; the first place where the device is waited for."""
        losses = self.processes.mean(losses.float()).cpu().double()
        hits = hits.cpu().double()
        bad = (~losses.isfinite()).nonzero().flatten()
        if len(bad) or not self.last_good.finite():
            where = f"{what} became {float(losses[bad[0]])}" if len(bad) else "weights became NaN or infinite"
            step = f", step {int(bad[0]) + 1} of {len(losses)}" if len(bad) else ""
            lr = self.optimizer.param_groups[0]["lr"]
            if self.nonfinite_labels and len(bad):
                raise NonFiniteError(
                    f"the {where} in epoch {epoch}, and labels are NaN or infinite in rows "
                    f"{self.nonfinite_labels[:5]} ({len(self.nonfinite_labels):,} in all): leave them out in the loss "
                    f"{self.objective.name}, or train on the other rows"
                )
            raise NonFiniteError(
                f"the {where} in epoch {epoch} of {self.plan.epochs}{step} at lr {float(lr):g}: the network keeps its "
                f"weights of the end of epoch {epoch - 1}; lower the rate, set grad_clip, or use precision='fp32'"
            )
        weights = torch.tensor(sizes, dtype=torch.float64)
        return {"loss": float((losses * weights).sum() / weights.sum()), "accuracy": float(hits.sum() / weights.sum())}


def _chunks(order: Tensor, size: int, least: int) -> list[Tensor]:
    """Return an order in batches; a last one of fewer than `least` rows joins the one before."""
    chunks = list(order.split(size))
    if len(chunks) > 1 and len(chunks[-1]) < least:
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks


def _full(logits: Tensor) -> Tensor:
    """Return half precision as single."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
