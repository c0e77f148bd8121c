"""Distillation against an oracle in NumPy, and as part of a training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from prunefuse_al.errors import InputError
from prunefuse_al.training import TorchTrainer
from prunefuse_al.training.distillation import Distillation, distillation_loss

logits = hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e3, 1e3))


@given(student=logits, teacher=logits, tau=st.floats(0.1, 20))
def test_it_is_the_divergence_of_softened_outputs(student: Any, teacher: Any, tau: float) -> None:
    log_p, log_q = (scipy.special.log_softmax(z / tau, axis=1) for z in (teacher, student))
    expected = tau**2 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    found = distillation_loss(torch.as_tensor(student), torch.as_tensor(teacher), tau)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-8)


@given(student=logits, teacher=logits, tau=st.floats(0.5, 10))
def test_it_agrees_with_torch_and_is_never_negative(student: Any, teacher: Any, tau: float) -> None:
    s, t = torch.as_tensor(student), torch.as_tensor(teacher)
    expected = tau**2 * F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction="none").sum(1)
    found = distillation_loss(s, t, tau)
    torch.testing.assert_close(found, expected)
    assert bool((found >= -1e-9).all())


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    distillation_loss(student, teacher * 2).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_lambda_is_annealed_over_the_epochs() -> None:
    assert [Distillation(0.4).weight(e, 4) for e in range(4)] == [0.4] * 4
    assert [Distillation(0.4, annealing="linear").weight(e, 4) for e in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert Distillation(0.4, annealing="cosine").weight(2, 4) == pytest.approx(0.2)
    assert Distillation(0.5, annealing=lambda progress: progress**2).weight(1, 2) == 0.125


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lambda_": 1.5}, "lambda_=1.5"),
        ({"lambda_": math.nan}, "lambda_=nan"),
        ({"tau": 0.0}, "tau=0.0"),
        ({"annealing": "exponential"}, "none, linear, cosine, or a function"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Distillation(**options)


def network(seed: int = 0, outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, outputs))


X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 60)


def trained(distillation: Distillation | None, teacher: nn.Module | None, **options: Any) -> torch.Tensor:
    model = network()
    TorchTrainer(2, 16, distillation=distillation, device="cpu", **options).fit(model, (X, Y), teacher=teacher, seed=3)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_lambda_zero_is_plain_training_bit_for_bit() -> None:
    plain = trained(None, None)
    assert torch.equal(trained(Distillation(0.0), network(7)), plain)
    assert torch.equal(trained(None, network(7)), plain)  # a teacher without distillation is ignored
    assert not torch.equal(trained(Distillation(0.5), network(7)), plain)


def test_lambda_one_learns_the_teacher_and_leaves_it_alone() -> None:
    teacher, student = network(7), network(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    TorchTrainer(150, 60, lr=0.1, distillation=Distillation(1.0, tau=1.0), device="cpu", weight_decay=0.0).fit(
        student, (X, 0 * Y), teacher=teacher, seed=0
    )
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert teacher.training
    agree = student.eval()(torch.as_tensor(X)).argmax(1) == teacher.eval()(torch.as_tensor(X)).argmax(1)
    assert float(agree.float().mean()) > 0.8


@pytest.mark.touches_global_rng  # the layers draw first weights, which are replaced
def test_one_step_is_the_stated_mixture() -> None:
    """With one step of plain SGD the weights move against the gradient of the formula."""
    model, teacher = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 12).view(3, 4))
        teacher.weight.copy_(torch.linspace(2, -1, 12).view(3, 4))
    weight = model.weight.detach().clone().requires_grad_()
    z, t = torch.as_tensor(X) @ weight.T, teacher(torch.as_tensor(X)).detach()
    (0.75 * F.cross_entropy(z, torch.as_tensor(Y)) + 0.25 * distillation_loss(z, t, 3.0).mean()).backward()
    trainer = TorchTrainer(
        1, 60, lr=0.5, momentum=0.0, weight_decay=0.0, distillation=Distillation(0.25, tau=3.0), device="cpu"
    )
    trainer.fit(model, (X, Y), teacher=teacher, seed=0)
    assert weight.grad is not None
    torch.testing.assert_close(model.weight.detach(), (weight - 0.5 * weight.grad).detach())


def test_a_teacher_with_other_outputs_is_refused() -> None:
    model = network()
    with pytest.raises(InputError, match=r"teacher gives \[2, 5\], the network \[2, 3\]"):
        TorchTrainer(1, distillation=Distillation()).fit(model, (X, Y), teacher=network(0, 5), seed=0)
