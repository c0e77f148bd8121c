"""Gates are where channels are read, learn what the loss says, and tell how wide layers should be."""

from __future__ import annotations

import fakes
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunefuse_al import PrunedProxySelector, TorchTrainer, prune
from prunefuse_al.errors import InputError, NonFiniteError
from prunefuse_al.pruning import Gates, channel_gates, importance
from prunefuse_al.pruning.groups import structure
from prunefuse_al.pruning.measures import Subject
from prunefuse_al.pruning.trace import trace

X, Y = fakes.blobs(60, 6, 3)


class Residual(nn.Module):
    """A stream that two layers write and two read, with a norm and an inner layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.inner = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)
        self.outer, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, stream: Tensor | None = None, inside: Tensor | None = None) -> Tensor:
        """Answer, with the channels that layers read multiplied by gates of the stream [5] and inside [4]."""
        one = torch.ones(())
        stream, inside = (one if gates is None else gates for gates in (stream, inside))
        x = self.norm(self.stem(x))
        return self.head((x + self.outer(torch.relu(self.inner(x * stream)) * inside)) * stream)


def subject_of(model: nn.Module, seed: int = 0) -> Subject:
    return Subject(model, structure(trace(model, (X[:2],), {}), {}), np.random.default_rng(seed))


def owned(subject: Subject, name: str, dim: int) -> np.ndarray:
    """Return the component of each position of a parameter."""
    return next(subject.owners(axis) for axis in subject.found.trace.atoms.axes if (axis.name, axis.dim) == (name, dim))


def test_the_worked_example_of_the_penalty() -> None:
    gates = torch.tensor([1, 0.2, 0, 0.6, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    value = channel_gates.penalty(gates, 0.5, 0.5)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.000555556, abs=1e-9)
    assert gates.grad is not None
    assert gates.grad.tolist() == pytest.approx([-0.00555556] * 2 + [0.0] + [-0.00555556] * 3, abs=1e-8)


def test_the_worked_example_of_the_readout() -> None:
    """Of gates (1, 0.2, 0, 0.6) and (0.9, 0.1) three channels stay: the first and last here, the first there."""
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    gates = {"0.weight": torch.tensor([1, 0.2, 0, 0.6]), "2.weight": torch.tensor([0.9, 0.1])}
    blank = torch.zeros(())

    def given(name: str, tensor: Tensor, dim: int) -> Tensor:
        return gates[name] if dim == 0 and name in gates else blank.expand(tensor.shape[dim])

    subject = subject_of(net)
    scores = importance.added(subject, given)
    found = [scores[owned(subject, name, 0)] for name in gates]
    assert [values.tolist() for values in found] == [pytest.approx(want.tolist()) for want in gates.values()]
    best = np.argsort(-np.concatenate(found))[:3]
    assert sorted(best.tolist()) == [0, 3, 4]


def test_a_gate_multiplies_a_channel_wherever_it_is_read() -> None:
    model = fakes.seeded(Residual).eval()
    subject = subject_of(model)
    gated = channel_gates.GatedNetwork(model, subject)
    assert torch.allclose(gated(X), model(X))
    assert len(gated.gates) == 9  # the stream has one gate a channel, however many layers write and read it
    with torch.no_grad():
        gated.gates.copy_(torch.rand(9, generator=torch.Generator().manual_seed(0)))
    by_component = dict(zip(gated.channels.tolist(), gated.gates.detach(), strict=True))
    stream = torch.stack([by_component[c] for c in owned(subject, "stem.weight", 0)])
    inside = torch.stack([by_component[c] for c in owned(subject, "inner.weight", 0)])
    torch.testing.assert_close(gated(X), model(X, stream, inside))


class Useless(nn.Module):
    """Half of the hidden channels tell the class; the others add noise that the loss would be without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        with torch.no_grad():
            self.first.weight.zero_()
            self.first.bias.zero_()
            self.last.weight.zero_()
            self.last.bias.zero_()
            for channel in range(8):
                self.first.weight[channel, channel % 6] = 1.0
            self.last.weight[:, :3] = 3 * torch.eye(3)
            self.last.weight[:, 3:] = torch.tensor([[4.0], [-4.0], [2.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def test_gates_of_channels_that_tell_stay_open_and_those_of_noise_close() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    inputs = torch.cat([nn.functional.one_hot(labels, 3).float(), torch.randn(300, 3, generator=rng)], 1)
    model = Useless()
    inputs[:, 3:] *= 2
    subject = subject_of(model)
    scores = Gates(inputs, labels, epochs=30, rate=0.05).learnt(subject)
    own = scores[owned(subject, "first.weight", 0)]
    telling = [0, 1, 2]
    assert own[telling].min() > own[3:6].max()
    assert ((own >= 0) & (own <= 1 + 1e-6)).all()


def test_the_network_and_global_random_numbers_stay_as_they_are() -> None:
    model = fakes.seeded(Residual).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (
        prune(model, X[:2], 0.5, importance=Gates(X, Y, epochs=2), scope="global", random_state=seed) for seed in (0, 0)
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    pairs = zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_gates_that_tie_are_ordered_by_the_seed() -> None:
    model = fakes.mlp(6, 16, 3)
    kept = set()
    for seed in range(6):
        subject = subject_of(model, seed)
        scores = Gates(X, Y, epochs=1, rate=1e-12, gamma=0).learnt(subject)  # all stay at 1
        kept.add(tuple(np.argsort(-scores[owned(subject, "0.weight", 0)])[:4].tolist()))
    assert len(kept) > 3


def test_a_selector_takes_the_name() -> None:
    trainer = TorchTrainer(2, device="cpu", progress=False)
    selector = PrunedProxySelector(
        fakes.mlp(6, 16, 8, 3), 0.5, importance="gates", scope="global", trainer=trainer, random_state=0
    )
    assert len(selector.fit(X[:40], Y[:40]).query(X, 5)) == 5


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(InputError, match="Gates: there are 60 inputs and no labels"):
        Gates(X)
    with pytest.raises(InputError, match=r"importance='gates' needs a batch of labelled data: pass importance=Gates\("):
        prune(fakes.mlp(6, 8, 3), X, 0.5, importance="gates")
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        prune(fakes.mlp(6, 8, 3), X[:2], 0.5, importance=Gates(X / 0, Y))
