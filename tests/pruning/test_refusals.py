"""What is said of a network that cannot be thinned: what was found, and a remedy for that very case."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunefuse_al import prune
from prunefuse_al.errors import PruningError, UnsupportedModelError
from prunefuse_al.network.model_checks import check_model
from prunefuse_al.network.states import named_tensors
from prunefuse_al.pruning.refusals import CURES

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """Two layers, with a function between them."""

    def __init__(self, between: Callable[[Tensor], Any], outputs: int = 2) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(3, 16), nn.Linear(16, outputs), between

    def forward(self, x: Tensor) -> Any:
        hidden = self.between(self.a(x))
        return (self.b(hidden[0]), hidden[1]) if isinstance(hidden, tuple) else self.b(hidden)


class StatesOfItsOwn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(1, len(x), 16)
        return self.head(self.cells(x[:, None], (start, start))[0][:, -1])


class MaskForEachHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.attention(x, x, x, attn_mask=mask)[0].mean(1)[:, :2] * 1


SEQUENCES = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))

HIDDEN = "pass a network with at least one hidden layer"

# network, inputs, what was found, what helps
CASES: dict[str, tuple[Callable[[], nn.Module], Any, str, str]] = {
    "no hidden layer": (lambda: nn.Linear(3, 2), X, "reads an input of fixed size", HIDDEN),
    "no layer": (nn.Identity, X, "can be thinned. ", HIDDEN),
    "several answers": (
        lambda: Two(lambda h: (h, h), 16), X, r"it answers with 2 tensors, \[\[2, 16\], \[2, 16\]\]",
        CURES["answers with"],
    ),
    "an operation": (
        lambda: Two(lambda h: h.sort(1).values), X, r"a\.weight.* and 1 more, goes through sort",
        CURES["is not understood"],
    ),
    "a number in a view": (
        lambda: Two(lambda h: h.view(-1, 16)), X, "does not run.*mat1 and mat2", CURES["does not run"],
    ),
    "states of its own": (StatesOfItsOwn, X, "does not run.*Expected hidden", CURES["does not run"]),
    "a number of channels": (
        lambda: Two(lambda h: h * h.shape[1]), X, "not a sub-network: relative distance", CURES["not a sub-network"],
    ),
    "a root of generic weights": (
        lambda: Two(lambda h: (h + 2).sqrt()), X, "with generic weights answers are NaN",
        CURES["cannot be checked"],
    ),
    "a mask for each head": (
        MaskForEachHead, (SEQUENCES, torch.zeros(8, 5, 5)), "meets a tensor of fixed size in", CURES["fixed size"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "inputs", "found", "cure"), CASES.values(), ids=CASES)
def test_what_cannot_be_thinned_is_refused_with_a_remedy_for_the_case(
    make: Callable[[], nn.Module], inputs: Any, found: str, cure: str
) -> None:
    network = make()
    before = {name: tensor.clone() for name, tensor in named_tensors(network).items()}
    with pytest.raises(PruningError, match=rf"pruning_ratio=0.5 was asked, and nothing .*{found}") as raised:
        prune(network, inputs, 0.5)
    assert f"To have it thinned, {cure}" in str(raised.value)
    assert all(other == cure or other not in str(raised.value) for other in CURES.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(network).items())


def test_layers_kept_on_request_are_named_with_their_option() -> None:
    with pytest.raises(
        PruningError, match=r"kept on request \(Linear\)\. To have it thinned, name fewer layers in keep="
    ):
        prune(Two(torch.relu), X, 0.5, keep=nn.Linear)


NO_ANSWER: dict[str, Callable[[], nn.Module]] = {
    "NaN": lambda: Two(lambda h: (h - 99).sqrt()),
    "infinity": lambda: Two(lambda h: h / 0),
}


@pytest.mark.parametrize("name", [*CASES, *NO_ANSWER])
def test_a_ratio_of_0_asks_for_nothing_and_is_never_refused(name: str) -> None:
    make, inputs = (NO_ANSWER[name], X) if name in NO_ANSWER else CASES[name][:2]
    network = make()
    proxy = prune(network, inputs, 0)
    assert all(torch.equal(t, named_tensors(network)[n]) for n, t in named_tensors(proxy.module).items())
    assert proxy.report().proxy_macs == proxy.report().dense_macs
    assert proxy.report().preserve_exact


@pytest.mark.parametrize("name", NO_ANSWER)
def test_a_network_that_answers_with_nan_is_told_so(name: str) -> None:
    with pytest.raises(
        PruningError, match=r"answers with NaN or infinite values on example_inputs \[\[4, 3\]\].*repair"
    ):
        prune(NO_ANSWER[name](), X, 0.5)


def test_inputs_that_have_no_rows_are_told_from_inputs_that_do_not_fit() -> None:
    three = torch.cat([SEQUENCES, SEQUENCES[:1]])
    with pytest.raises(
        PruningError,
        match=r"runs on example_inputs \[\[3, 5, 8\], \[12, 5, 5\]\], but not on two rows .*\[\[2, 5, 8\], \[",
    ):
        prune(MaskForEachHead(), (three, torch.zeros(12, 5, 5)), 0.5)
    with pytest.raises(PruningError, match=r"does not run on example_inputs \[\[3, 5, 8\], \[9, 5, 5\]\].*called with"):
        prune(MaskForEachHead(), (three, torch.zeros(9, 5, 5)), 0.5)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "found NoneType: build the network and pass that"),
        ("net.pt", "found str: build the network"),
        (nn.Linear, "found Linear: pass an instance"),
        (nn.Linear(2, 2).state_dict(), "found OrderedDict: .*load_state_dict"),
        (torch.relu, "found builtin_function_or_method: wrap it in an nn.Module"),
        (SimpleNamespace(module_=nn.Linear(2, 2)), "found SimpleNamespace: pass its module_"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_told_what_to_pass_instead(found: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        check_model(found)
