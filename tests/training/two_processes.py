"""One of two processes that train together; run by test_training_accelerate."""

from __future__ import annotations

import sys

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from prunefuse_al.training import EarlyStopping, Recorder, TorchTrainer


def main(folder: str) -> None:
    """Train, read signals, and write what this process ended with."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 51)
    x = (rng.normal(size=(51, 5)) + 2 * np.eye(5)[y]).astype(np.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    trainer = TorchTrainer(12, 8, accelerator=accelerator, early_stopping=EarlyStopping(patience=50), progress=False)
    recorder = Recorder()
    history = trainer.fit(model, (x, y), seed=0, recorder=recorder)
    logits = trainer.infer(model, x).logits
    alone = TorchTrainer(device="cpu").infer(model, x).logits
    assert logits is not None
    assert alone is not None
    last = torch.tensor([history.epochs[-1]["loss"], history.epochs[-1]["val_loss"], float(history.samples)])
    found = {**model.state_dict(), "logits": logits, "alone": alone, "y": torch.as_tensor(y), "history": last}
    found |= {"presented": recorder.presented, "aum": recorder.dynamics["aum"].nan_to_num(99.0)}
    torch.save(found, f"{folder}/{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1])
