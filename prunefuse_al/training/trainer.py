"""`TorchTrainer`: trains any torch network on arrays or datasets, and reads signals from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import nn

from .. import checks
from ..data import Collate, fresh_seed, has_labels, to_dataset
from ..errors import FallbackWarning, InputError, warn
from ..network import check_model, collect, of_trainer, resolve_device, resolve_precision
from ..types import Signals
from .callbacks import Callback
from .checking import checked
from .distillation import Distillation as Distillation
from .fitting import Run
from .plan import Plan
from .plan import TrainingHistory as TrainingHistory
from .progressive import OnEpoch
from .recipes import preset
from .recording import Recorder
from .schedules import make_optimizer, make_schedule
from .stopping import EarlyStopping as EarlyStopping


class TorchTrainer(BaseEstimator):
    """Trains a network in place and reads signals from it; parameters as in scikit-learn (`get_params`, `clone`).

    Batches are drawn without replacement each epoch; a last batch of one row joins the one before, because batch norm
    cannot train on one row. A network stays on the device it came on: it is moved for the work and moved back.
    Frozen parameters stay as they are, and so do the running statistics of a BatchNorm whose parameters are all frozen,
    or which is in eval mode while the network is in train mode: it stays in eval mode. NaN or infinity in the *raw*
    inputs is an error, even if a transform hides it.

    Args:
        epochs: passes over the data.
        batch_size: rows per step, over all processes.
        optimizer: "sgd" (lr 0.05, momentum 0.9, weight decay 5e-4), "adam" (lr 1e-3), "adamw" (lr 1e-3, weight decay
            0.01), or a factory called with the list of trainable parameters.
        lr: learning rate; None is the named optimiser's own. The same goes for `momentum` and `weight_decay`.
        scheduler: "cosine", "warmup_cosine" (one epoch), "constant", "cifar", "imagenet", or a factory called with
            (optimizer, epochs), or with the optimiser if it takes no more, whose result is stepped after every epoch.
        loss: "cross_entropy", or a function or module (logits, labels) -> scalar or [n]. With a loss of independent
            labels, such as ``nn.BCEWithLogitsLoss()``, labels are 0 and 1, [n c], one for each output; for a network
            with one output, [n] or [n 1]. With cross entropy they are numbers of classes [n], rows [n c] with a single
            1 (which mean the same), or soft targets [n c] whose rows sum to 1.
        class_weight: None, "balanced" (reads all labels first), a mapping, or one weight for each class.
        transform: applied to each training batch of inputs, on the device, whole batch at once. Transforms of
            `torchvision.transforms.v2` work, but draw *one* crop or flip for the batch: wrap them in
            `transforms.per_sample`, or use `transforms.RandomCropFlip`. Random numbers come from `seed`.
        eval_transform: the same for inference and validation. Nothing is inferred from `transform`.
        early_stopping: an `EarlyStopping`, or None.
        device: "auto" (CUDA, MPS, CPU) or a torch device.
        precision: "fp32", "bf16", "fp16" or "auto"; see `precision.resolve_precision`.
        channels_last: lay out 4-D batches and weights with channels last, in training and inference.
        compile: "auto": where many batches of one shape are to come, in training or in reading logits, the network is
            compiled for them, on a GPU into CUDA graphs; see `network.compiling`. Where that cannot be done it is used
            as it is, with a `FallbackWarning`; the history says which it was. Other bits are rounded, and the first
            batch takes long. True or a dict of options of `torch.compile`: train through that, whatever comes.
        progress: where stderr is a terminal, a bar over epochs; where they take over five seconds also one over rows
            that are read for scores and features, the picks of k-centre and what pruning tries.
        distillation: how to learn from a `teacher` given to `fit`; with None the teacher is ignored.
        accelerator: an `accelerate.Accelerator`; its device, precision and processes are used. Several processes run
            one program with the same seed, data and network, which is looked at, see `network.processes`: each has a
            part of every batch and of what is read. Weights are whole in each: FSDP, DeepSpeed, Megatron are refused.
        lr_scale: multiplies the rate of every parameter group before the schedule sees it.
        num_workers: processes that read a dataset's items (arrays are read in this process).
        grad_clip: largest norm of the gradient, or None.
        eval_batch_size: rows per batch of inference; None is the larger of 256 and `batch_size`.
        deterministic: have cuDNN pick deterministic kernels while training.
        mc_samples: passes for the signal "mc_logits".
        collate: makes a batch of the list of a dataset's inputs, without their labels; None stacks them. Texts of
            several lengths: ``functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)``, or
            ``transformers.DataCollatorWithPadding(tokenizer)``. Not used for arrays, which are batches already.
        metrics: what is measured beside loss and accuracy, by the name that it has in the history: functions
            (logits, labels) -> float, called once an epoch with all rows on the CPU, kept until then, or objects with
            `update`, `compute` and `reset` as of torchmetrics, which see one batch after the other on the device.
            They get what the loss gets, without weights: in training the outputs as they were at each step, and
            as ``val_...`` those of held-out rows. Copies are used, on their device.
        callbacks: told how trainings go, see `Callback`; a list, or None.
        outputs: what networks give, by a name of `prunefuse_al.network.outputs`; "auto": what the loss says, torch's
            losses and torchvision's focal one by themselves and one of your own by an attribute `outputs`.
        eval_precision: of reading signals, by a name as of `precision`: looked at on the first batch, and left for
            fp32 with a `FallbackWarning` where its logits are off by more than 2 % of what rows differ by; None is
            `precision`, not looked at.
        batchnorm: "auto": in trainings of so few steps that running statistics would keep more than 2 % of those of
            other weights, batch norms have a larger momentum, 4 / steps, while they are trained; a new network keeps
            its own, if that is no less than torch's 0.1. "as_is": all keep their own.
    """

    def __init__(
        self,
        epochs: int = 30,
        batch_size: int = 64,
        *,
        optimizer: Any = "sgd",
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        scheduler: Any = "cosine",
        loss: Any = "cross_entropy",
        class_weight: Any = None,
        transform: Any = None,
        eval_transform: Any = None,
        early_stopping: EarlyStopping | None = None,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool | str | dict[str, Any] = False,
        progress: bool = True,
        distillation: Distillation | None = None,
        accelerator: Any = None,
        lr_scale: float = 1.0,
        num_workers: int = 0,
        grad_clip: float | None = None,
        eval_batch_size: int | None = None,
        deterministic: bool = True,
        mc_samples: int = 10,
        collate: Collate | None = None,
        outputs: str = "auto",
        eval_precision: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] | None = None,
        batchnorm: str = "auto",
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.scheduler = scheduler
        self.loss = loss
        self.class_weight = class_weight
        self.transform = transform
        self.eval_transform = eval_transform
        self.early_stopping = early_stopping
        self.device = device
        self.precision = precision
        self.channels_last = channels_last
        self.compile = compile
        self.progress = progress
        self.distillation = distillation
        self.accelerator = accelerator
        self.lr_scale = lr_scale
        self.num_workers = num_workers
        self.grad_clip = grad_clip
        self.eval_batch_size = eval_batch_size
        self.deterministic = deterministic
        self.mc_samples = mc_samples
        self.collate = collate
        self.outputs = outputs
        self.eval_precision = eval_precision
        self.metrics = metrics
        self.callbacks = callbacks
        self.batchnorm = batchnorm

    def check(self) -> None:
        """Raise `InputError` unless every option can be used; a selector asks this before it does anything."""
        checked(self)

    def fit(
        self,
        model: nn.Module,
        data: Any,
        *,
        teacher: nn.Module | None = None,
        seed: int | None = None,
        on_epoch: OnEpoch | None = None,
        recorder: Recorder | None = None,
    ) -> TrainingHistory:
        """Train `model` in place.

        Args:
            model: the network; its modes and device are put back, its gradients dropped.
            data: a map-style dataset of (x, y[, w]), or the tuple (X, y[, w]) of arrays, memory maps or tensors.
            teacher: the proxy to distil from, used in eval mode; ignored unless `distillation` is set.
            seed: the same seed gives the same weights, bit for bit on one device; None draws a fresh one, which
                several processes cannot. Global random states are left alone.
            on_epoch: called before every epoch with its number, from 0, and the optimiser; it may thin `model` in
                place. When it returns True, early stopping starts anew: weights from before are not gone back to.
            recorder: watches the training; it changes nothing in it. Rows are those of `data`, also where early
                stopping holds some out; every row needs one class.

        Raises:
            InputError: an option or the data cannot be used; found before the weights change, but for what shows only
                while a foreign dataset is read or a metric is computed (then they are put back).
            NonFiniteError: NaN or infinity in inputs, loss or weights; the network keeps its last good epoch's weights.
            UnsupportedModelError: see `model_checks.check_model`.
        """
        check_model(model)
        checks.maybe(lambda name, network: check_model(network, name), "teacher", teacher)
        checks.maybe(checks.function, "on_epoch", on_epoch, "a function of (epoch, optimizer)")
        checks.maybe(checks.methods, "recorder", recorder, ("begin", "see", "end_epoch"), "a training.Recorder()")
        return Run(self._plan(seed), model, to_dataset(data), teacher, on_epoch, recorder).go()

    def infer(self, model: nn.Module, data: Any, needs: Iterable[str] = ("logits",)) -> Signals:
        """Return the signals in `needs` for every row of `data`, in order; see `signals.collect`."""
        self.check()
        return collect(
            model,
            data,
            needs,
            batch_size=self._eval_batch_size(),
            device=self.device,
            transform=self.eval_transform,
            precision=self.precision if self.eval_precision is None else self.eval_precision,
            channels_last=self.channels_last,
            num_workers=self.num_workers,
            mc_samples=self.mc_samples,
            progress=self.progress,
            accelerator=self.accelerator,
            collate=self.collate,
            outputs=of_trainer(self),
            compile=self.compile == "auto" and _alone(self.accelerator),
            checked_precision=self.eval_precision is not None,
        )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> TorchTrainer:
        """Return a trainer with the settings of a paper, any of them overridden.

        Args:
            name: "cifar" or "imagenet"; see `presets`.
            overrides: parameters of `TorchTrainer`; fewer `epochs` shrink the phases of the schedule in proportion.
        """
        return cls(**{**preset(name), **overrides})

    def _eval_batch_size(self) -> int:
        return int(max(256, self.batch_size) if self.eval_batch_size is None else self.eval_batch_size)

    def _plan(self, seed: int | None) -> Plan:
        options = checked(self)
        accelerator, rule, asked = options["accelerator"], options["early_stopping"], options["compile"]
        device = resolve_device(self.device) if accelerator is None else accelerator.device
        settings = {name: options[name] for name in ("lr", "momentum", "weight_decay")}
        return Plan(
            epochs=options["epochs"],
            batch_size=options["batch_size"],
            eval_batch_size=self._eval_batch_size(),
            make_optimizer=lambda params: make_optimizer(self.optimizer, params, options["lr_scale"], **settings),
            make_schedule=partial(make_schedule, self.scheduler, epochs=options["epochs"]),
            loss=self.loss,
            outputs=of_trainer(self),
            stated=self.outputs != "auto",
            class_weight=options["class_weight"],
            transform=self.transform,
            eval_transform=self.eval_transform,
            early_stopping=rule,
            validation=None if rule is None else _validation(rule),
            device=device,
            autocast=None if accelerator is not None else resolve_precision(self.precision, device),
            channels_last=options["channels_last"],
            compile_options=asked if isinstance(asked, dict) else {} if asked is True else None,
            compile_itself=asked == "auto" and _alone(accelerator),
            progress=options["progress"],
            distillation=self.distillation,
            accelerator=accelerator,
            num_workers=options["num_workers"],
            grad_clip=options["grad_clip"],
            deterministic=options["deterministic"],
            seed=fresh_seed() if seed is None else checks.whole("seed", seed, least=0, most=2**64 - 1),
            collate=self.collate,
            metrics=options["metrics"],
            callbacks=options["callbacks"],
            batchnorm=options["batchnorm"],
        )


def _alone(accelerator: Any) -> bool:
    """Return whether compile="auto" may compile by itself: what an accelerator prepares is its own to compile."""
    if accelerator is not None:
        warn(
            "compile='auto' compiles nothing where an accelerator prepares the network: make that one with "
            "Accelerator(dynamo_backend='inductor'), or leave compile= out",
            FallbackWarning,
        )
    return accelerator is None


def _validation(rule: EarlyStopping) -> Any:
    """Return held-out data of the user's own as a dataset, checked to have labels; None: there is none."""
    if rule.validation_data is None:
        return None
    data = to_dataset(rule.validation_data)
    if not has_labels(data):
        raise InputError("early_stopping: validation_data has no labels; pass (X, y), or a Dataset of (input, label)")
    return data
