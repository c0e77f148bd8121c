"""The trainings of a loop as curves in TensorBoard or MLflow: `python examples/curves.py --to tensorboard`.

Without arguments it takes the one that is installed, and where none is, prints. A callback of your own is a class with
three methods. Look at the curves with `tensorboard --logdir runs`, or `mlflow ui`.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.training import EarlyStopping


class TensorBoard:
    """Writes curves with torch's own writer, into a folder for each training."""

    def __init__(self, folder):
        self.folder, self.trainings, self.writer = Path(folder), 0, None

    def begin(self, model, epochs):  # what is opened here is not pickled with the trainer: it is closed in `end`
        from torch.utils.tensorboard import SummaryWriter

        self.trainings += 1
        self.writer = SummaryWriter(self.folder / f"training-{self.trainings:02}")

    def end_epoch(self, model, row):
        for name, value in row.items():
            self.writer.add_scalar(name, value, row["epoch"])
        for name, weights in model.named_parameters():
            self.writer.add_histogram(name, weights, row["epoch"])

    def end(self, history):
        self.writer.close()
        self.writer = None


class MLflow:
    """Writes curves into a run of MLflow for each training, which has failed where the training has."""

    def __init__(self, experiment):
        self.experiment, self.trainings = experiment, 0

    def begin(self, model, epochs):
        import mlflow

        self.trainings += 1
        mlflow.set_experiment(self.experiment)
        mlflow.start_run(run_name=f"training-{self.trainings:02}")
        mlflow.log_params({"epochs": epochs, "parameters": sum(p.numel() for p in model.parameters())})

    def end_epoch(self, model, row):
        import mlflow

        mlflow.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=int(row["epoch"]))

    def end(self, history):
        import mlflow

        mlflow.end_run("FAILED" if history is None else "FINISHED")


class Printed:
    """Prints how each training ended."""

    def begin(self, model, epochs):
        self.parameters, self.rows = sum(p.numel() for p in model.parameters()), []

    def end_epoch(self, model, row):
        self.rows.append(row)

    def end(self, history):
        last = ", ".join(f"{name} {value:.3f}" for name, value in self.rows[-1].items() if name not in ("epoch", "lr"))
        print(f"  {self.parameters:,} parameters, {len(self.rows)} epochs: {last}")


def chosen(to: str, folder: str) -> list[object]:
    """Return the callbacks, and say which."""
    found = [name for name in ("tensorboard", "mlflow") if importlib.util.find_spec(name)]
    to = to or (found[0] if found else "print")
    if to == "print":
        print("neither tensorboard nor mlflow is installed, or asked for: printing")
        return [Printed()]
    print(f"curves go to {to}" + (f", into {folder}" if to == "tensorboard" else ""))
    return [TensorBoard(folder) if to == "tensorboard" else MLflow("watching"), Printed()]


def balanced(logits, labels) -> float:
    """Return the mean over classes of how much is right; a metric is any such function, or one of torchmetrics."""
    return balanced_accuracy_score(labels, logits.argmax(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", choices=("tensorboard", "mlflow", "print"), default="")
    parser.add_argument("--folder", default="runs", help="of TensorBoard")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    held, network = (X[1500:], y[1500:]), nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    trainer = TorchTrainer(
        args.epochs,
        32,
        early_stopping=EarlyStopping(patience=args.epochs, validation_data=held),
        metrics={"balanced": balanced},
        callbacks=chosen(args.to, args.folder),
    )
    selector = PrunedProxySelector(network, 0.5, trainer=trainer, random_state=0)
    labelled = np.arange(100)
    for _ in range(2):
        print(f"{len(labelled)} labels, the proxy:")
        selector.fit(X[labelled], y[labelled])
        rest = np.setdiff1d(np.arange(1500), labelled)
        labelled = np.append(labelled, selector.query(X[:1500], 100, candidates=rest))
    print(f"{len(labelled)} labels, the target:")
    selector.fit(X[labelled], y[labelled]).fit_target()


if __name__ == "__main__":
    main()
