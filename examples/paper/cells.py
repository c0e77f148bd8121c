"""Runs an arm on a seed, round by round, from where it was left."""

from __future__ import annotations

import copy
import platform
import time
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from arms import selector_options, trainer_changes
from plan import Arm, Plan, subset_of
from records import Store
from sources import Draw, Source, draw, trainer
from subselnet import CoreSet, Task, core_set, parse_architecture
from torch import nn
from tuning import Settings, Trial, best, drawn_settings
from watching import Watched, accuracy

from prunefuse_al import CostLedger, Distillation, PrunedProxySelector, TorchTrainer, prune
from prunefuse_al.data.datasets import as_dataset, subset
from prunefuse_al.proxies import Probe


@dataclass(frozen=True)
class Bench:
    """Everything that the arms of a plan share."""

    plan: Plan
    store: Store
    data: Source
    device: str

    def run(self, arm: Arm, seed: int) -> int:
        """Do the rounds of an arm that are not done; stops early where another arm's labels are not there yet.

        Returns:
            How many rounds are done.
        """
        done, total = self.store.done(arm, seed, self.plan.rounds), self.plan.rounds
        if done == total:
            return done
        import_what_pruning_needs()
        unit = Unit(self, arm, seed, draw(self.plan, self.data.rows, seed))
        unit.resume(done)
        for number in range(done, total):
            if not unit.do(number):
                return number
        return total


class Unit:
    """One arm on one seed."""

    def __init__(self, bench: Bench, arm: Arm, seed: int, drawn: Draw) -> None:
        self.bench, self.arm, self.seed, self.drawn = bench, arm, seed, drawn
        plan, data = bench.plan, bench.data
        self.sizes = plan.labels(min(plan.pool or data.rows, data.rows))
        self.dense = data.network(plan.network, seed, arm.checkpoint)
        self.plain = trainer(plan, data.transforms, TorchTrainer, bench.device)
        self.folder = bench.store.state(arm, seed)
        self.core_set: CoreSet | None = None
        self.equip(Settings())

    def equip(self, settings: Settings) -> None:
        """Make the trainers, with what was tuned, and a selector that has seen nothing."""
        self.settings, arm, data = settings, self.arm, self.bench.data
        choosing, finishing = trainer_changes(self.bench.plan, arm, settings)
        if arm.method == "probe":  # whose features are computed once
            choosing["transform"] = data.transforms[1]
        # Where the network that chooses is not the target, its training is not followed.
        self.choosing, self.finishing = (
            trainer(self.bench.plan, data.transforms, Watched, self.bench.device, **changes).watch(
                data, self.plain, follows=follows
            )
            for changes, follows in ((choosing, not arm.own_target), (finishing, True))
        )
        self.options = selector_options(self.bench.plan, arm, self.seed, self.sizes) | {
            "trainer": self.choosing,
            "target_trainer": self.finishing,
            **self.chooser(),
        }
        self.selector = PrunedProxySelector(self.dense, **self.options)

    def chooser(self) -> dict[str, Any]:
        """Return the options about the network that chooses which need networks or pictures."""
        if self.arm.method == "svp":
            return {"proxy": self.bench.data.network(self.arm.argument, self.seed)}
        if self.arm.method == "probe":
            return {"proxy": Probe()}
        pool = subset(as_dataset(self.bench.data.unlabelled), self.drawn.pool)
        return {"unlabelled": pool} if self.arm.pruned else {}

    def resume(self, done: int) -> None:
        """Take up the labels, the settings and the selector of the rounds that are done."""
        records = [self.bench.store.record(self.arm, self.seed, r) for r in range(done)]
        picks = [np.array(record["picked"], dtype=np.int64) for record in records]
        self.labelled = np.concatenate([self.drawn.first, *picks])
        if records and "settings" in records[-1]:
            self.equip(Settings(**records[-1]["settings"]))
        self.load(done)

    def load(self, done: int) -> None:
        """Take up the selector of the rounds that are done."""
        if done and not self.arm.idle:
            path = self.folder / f"{done - 1}.safetensors"
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} is gone, from which {self.arm.name}, seed {self.seed}, would go on after {done} rounds; "
                    f"to start it again, remove its lines from {self.bench.store.records.path}"
                )
            self.selector = PrunedProxySelector.load(path, self.dense, **self.options)

    def do(self, number: int) -> bool:
        """Do a round and write it; False where it needs what another process is still at."""
        arm, store, last = self.arm, self.bench.store, number == self.bench.plan.rounds - 1
        borrowed: dict[str, Any] | None = {}
        if arm.subset and not last:
            borrowed = store.record(self.bench.plan.arm(subset_of(arm)), self.seed, number)
            if borrowed is None:
                return False
        if arm.method == "subselnet" and not self.prepare():
            return False
        trials = self.tune(number) if number in self.bench.plan.tuned else []
        for watched in (self.choosing, self.finishing):
            watched.start_round(following=last)
        before, start = len(self.selector.costs), time.perf_counter()
        target, extra = self.trained(number)
        picked = np.array([], dtype=np.int64)
        if not last:
            k = self.sizes[number + 1] - len(self.labelled)
            picked = np.array(borrowed["picked"]) if borrowed else self.pick(k)
        rows = [*self.selector.costs.to_dicts()[before:], *extra.to_dicts()]
        rows += self.core_set.costs if self.core_set and not number else []
        record, timing = self.result(number, target, rows, picked)
        timing["wall"] = time.perf_counter() - start
        if self.core_set and not number:
            record |= {"guesses": self.core_set.checks}
        if self.bench.plan.tuning:
            record |= {"settings": asdict(self.settings), "trials": [trial.to_dict() for trial in trials]}
            timing["tuning"] = sum(trial.seconds for trial in trials)
        if not arm.idle:
            self.selector.save(self.folder / f"{number}.safetensors")
        store.write(arm, self.seed, number, record, timing)
        (self.folder / f"{number - 1}.safetensors").unlink(missing_ok=True)
        self.labelled = np.concatenate([self.labelled, picked])
        return True

    def prepare(self) -> bool:
        """Find the order in which a labelled pool is taken; False while another process does."""
        if self.core_set is None:
            plan, data = self.bench.plan, self.bench.data
            make = partial(trainer, plan, data.transforms, TorchTrainer, self.bench.device)
            ratio = plan.ratio if self.arm.ratio is None else self.arm.ratio
            task = Task(
                data=data,
                rows=self.drawn.pool,
                dense=self.dense,
                architecture=parse_architecture(plan.network),
                ratio=ratio,
                k=self.sizes[-1],
                trainer=make,
                seed=self.seed,
            )
            with self.bench.store.shared(self.seed) as folder:
                if folder is None:
                    return False
                self.core_set = core_set(task, self.arm.argument, folder)
        return True

    def trained(self, number: int) -> tuple[nn.Module, CostLedger]:
        """Train what chooses and the target on the labels; return the target, and its costs as `target` does."""
        data = self.bench.data.labelled(self.labelled)
        if not self.arm.idle:
            self.selector.fit(*(data if isinstance(data, tuple) else (data,)))
        return self.target(data, number)

    def tune(self, number: int) -> list[Trial]:
        """Try settings on the labels of a round, and take the best from here on."""
        trials = [self.tried(settings, number) for settings in drawn_settings(self.bench.plan, self.seed, number)]
        self.equip(best(trials))
        self.load(number)
        return trials

    def tried(self, settings: Settings, number: int) -> Trial:
        """Return what comes of settings: how accurate the target is on as many held-out rows as there are labels."""
        self.equip(settings)
        self.load(number)
        before, start = len(self.selector.costs), time.perf_counter()
        target, extra = self.trained(number)
        seconds = time.perf_counter() - start
        held_out = self.drawn.held_out[: len(self.labelled)]
        logits = self.plain.infer(target, subset(as_dataset(self.bench.data.unlabelled), held_out)).logits
        right = logits.argmax(1).cpu().numpy() == self.bench.data.y_train[held_out]
        rows = [*self.selector.costs.to_dicts()[before:], *extra.to_dicts()]
        macs = sum(row["forward_macs"] + row["backward_macs"] for row in rows)
        return Trial(settings, float(right.mean()), macs, seconds)

    def pick(self, k: int) -> np.ndarray:
        """Return the rows to label next, or to take next of those that are labelled."""
        if self.core_set:
            return self.core_set.order[~np.isin(self.core_set.order, self.labelled)][:k]
        candidates = np.setdiff1d(self.drawn.pool, self.labelled, assume_unique=True)
        return self.selector.query(self.bench.data.unlabelled, k, candidates=candidates)

    def target(self, data: Any, number: int) -> tuple[nn.Module, CostLedger]:
        """Return the network that a user gets at this budget, and what it cost where the selector does not say."""
        arm, extra = self.arm, CostLedger()
        if not arm.own_target:
            return self.selector.model, extra
        if arm.start == "fused" and not arm.target:
            return self.selector.fit_target(), extra
        network = copy.deepcopy(self.dense)
        if arm.target:
            network = self.bench.data.network(arm.target, self.seed)
        teacher = self.selector.model if arm.distill else None
        finishing = copy.copy(self.finishing)
        finishing.distillation = Distillation(lambda_=arm.distill) if arm.distill else None
        with extra.stage("train_target", round=number + 1, network="target") as stage:
            stage.watch(network, *([teacher] if teacher is not None else []))
            finishing.fit(network, data, teacher=teacher, seed=self.seed)
        return network, extra

    def result(
        self, number: int, target: nn.Module, rows: list[dict], picked: np.ndarray
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the record of a round, and its timing."""
        arm, data = self.arm, self.bench.data
        last, beside = accuracy(self.plain, target, data), arm.own_target and not arm.idle
        proxy = accuracy(self.plain, self.selector.model, data) if beside else None
        curve = [*self._curve(), last]
        seconds = self._seconds(rows)
        peak = max(row["peak_memory_bytes"] for row in rows)
        record = {
            "arm": arm.name,
            "seed": self.seed,
            "round": number,
            "labels": len(self.labelled),
            "accuracy": last,
            "best": max(curve) if number == self.bench.plan.rounds - 1 else None,
            "proxy_accuracy": proxy,
            "proxy_epochs": len(self.selector.history.epochs) if beside else None,
            "curve": curve,
            "picked": picked.tolist(),
            "costs": [{k: v for k, v in row.items() if k not in ("seconds", "peak_memory_bytes")} for row in rows],
            "probes": {} if arm.target else self._probes(target),
        }
        return record, {"seconds": seconds, "peak_memory_bytes": peak, **machine(self.bench.device)}

    def _curve(self) -> list[float]:
        """Return test accuracies after every epoch of the target but the last; of the last budget only."""
        curves = (self.finishing if self.arm.own_target else self.choosing).curves
        return curves[-1] if curves else []

    def _seconds(self, rows: list[dict]) -> dict[str, float]:
        """Return seconds per stage, without the tests on the side."""
        result: dict[str, float] = {}
        aside = {"train_proxy": list(self.choosing.aside), "sync": list(self.finishing.aside)}
        aside["train_target"] = [] if any(row["stage"] == "sync" for row in rows) else aside["sync"]
        for row in rows:
            tests = aside.get(row["stage"])
            result[row["stage"]] = result.get(row["stage"], 0.0) + row["seconds"] - (tests.pop(0) if tests else 0.0)
        return result

    def _probes(self, target: nn.Module) -> dict[str, list[float]]:
        """Return how unsure (1 - the largest probability) target and chooser are, and what the target predicts."""
        found: dict[str, list[float]] = {}
        rows = self.drawn.probes
        for name, network in (("target", target), ("chooser", self.selector.model)):
            logits = self.plain.infer(network, subset(as_dataset(self.bench.data.unlabelled), rows)).logits
            found[name] = [round(float(u), 5) for u in 1 - logits.double().softmax(1).amax(1)]
            if name == "target":
                found["predicted"] = logits.argmax(1).tolist()
        return found if self.arm.own_target else {name: found[name] for name in ("target", "predicted")}


@cache
def import_what_pruning_needs() -> None:
    """Prune something: torch then imports parts of itself, which takes seconds once and is no cost of an arm."""
    with torch.random.fork_rng(devices=[]):
        prune(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 2))


def machine(device: str) -> dict[str, Any]:
    """Return where this runs."""
    cuda = torch.cuda.is_available() and device != "cpu"
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
