"""Operations of a user's own: taught by a line, checked by the gate, taken back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefuse_al import prune
from prunefuse_al.errors import InputError, NoEffectWarning, PruningError
from prunefuse_al.pruning import Mixes, Normalises, OperationCall, Reduces, register_rule
from tests.pruning.test_breadth import assert_exact
from tests.pruning.test_prune import Wrapped, widths

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
LIBRARY = torch.library.Library("own", "DEF")


def defined(schema: str, function: Callable[..., Any], differentiable: bool = True) -> None:
    """Define own::name, which is one operation to whoever watches below autograd."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, function, "CPU")
    if differentiable:
        torch.library.register_autograd(
            f"own::{name}", by_recomputing(function), setup_context=keep_inputs, lib=LIBRARY
        )


def keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any, keyword_only_inputs: Any = None) -> None:
    ctx.given = inputs


def by_recomputing(function: Callable[..., Any]) -> Callable[..., Any]:
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        given = [t.detach().requires_grad_() if isinstance(t, Tensor) else t for t in ctx.given]
        tensors = [t for t in given if isinstance(t, Tensor)]
        with torch.enable_grad():
            found = iter(torch.autograd.grad(function(*given), tensors, gradient))
        return tuple(next(found) if isinstance(t, Tensor) else None for t in given)

    return backward


defined("swish(Tensor x, float scale) -> Tensor", lambda x, scale: x * torch.sigmoid(scale * x))
defined("gate(Tensor x, Tensor y) -> Tensor", lambda x, y: x * torch.sigmoid(y))
defined("times(Tensor x, Tensor y) -> Tensor", lambda x, y: x.mm(y))
defined("dense(Tensor x, Tensor weight, Tensor? bias) -> Tensor", lambda x, weight, bias: F.linear(x, weight, bias))
defined("spectrum(Tensor x) -> Tensor", lambda x: torch.fft.rfft(x).abs())
defined("smooth(Tensor x) -> Tensor", lambda x: x + x.flip(-1).cumsum(-1))
defined("power(Tensor x) -> Tensor", lambda x: x.square().mean(1))
defined("rms(Tensor x, Tensor scale) -> Tensor", lambda x, scale: F.rms_norm(x, x.shape[-1:], scale, 1e-6))
defined("centre(Tensor x, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor",
        lambda x, dim, keepdim=False, *, dtype=None: x.mean(dim, keepdim))  # fmt: skip
defined(
    "halves_swapped(Tensor x) -> Tensor", lambda x: torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1)
)
defined("sum(Tensor x) -> Tensor", lambda x: 2 * x)
LIBRARY.define("overwrite(Tensor(a!) x) -> ()")
LIBRARY.define("broken_down(Tensor x) -> Tensor")
LIBRARY.impl("broken_down", lambda x: x + 1, "CompositeImplicitAutograd")
own = torch.ops.own


def net(forward: Callable[[Any, Tensor], Tensor], width: int = 16) -> Wrapped:
    return Wrapped(forward, a=nn.Linear(6, width), b=nn.Linear(width, 3))


def swish(m: Any, x: Tensor) -> Tensor:
    return m.b(own.swish(m.a(x), 2.0))


def swapped(call: OperationCall) -> Any:
    (x,) = call.marks()
    half = x.shape[1] // 2
    return call.moved(lambda t: torch.cat([t[:, half:], t[:, :half]], 1), x)


def test_an_operation_of_ones_own_in_a_line() -> None:
    """Adding a tracer operation, from nothing to a proxy."""
    network = net(swish)
    with pytest.raises(PruningError, match=r"goes through own::swish, which is not understood.*pruning\.register_rule"):
        prune(network, X, 0.5)
    handle = register_rule("own::swish", "elementwise")
    proxy = prune(network, X, 0.5)
    assert widths(proxy) == [8, 3]
    assert_exact(network, proxy, X)
    handle.remove()
    with pytest.raises(PruningError, match="not understood"):
        prune(network, X, 0.5)


CASES: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, Any]] = {
    "as an activation": (swish, "own::swish", "elementwise"),
    "of two": (lambda m, x: m.b(own.gate(m.a(x), m.a(2 * x))), "own::gate", "elementwise"),
    "as one that torch knows to be pointwise": (swish, "own::swish", "relu"),
    "a product of matrices": (lambda m, x: m.b(own.times(torch.relu(m.a(x)), m.square)), "own::times", "mm"),
    "a linear layer": (
        lambda m, x: m.b(torch.relu(own.dense(torch.relu(m.a(x)), m.square, m.a.bias))), "own::dense", "linear",
    ),
    "a linear layer without bias": (
        lambda m, x: m.b(torch.relu(own.dense(torch.relu(m.a(x)), m.square, None))), "own::dense", "linear",
    ),
    "a mean": (lambda m, x: m.b(m.a(x) - own.centre(m.a(x), [1], True)), "own::centre", "mean"),
    "a mean, by defaults": (lambda m, x: m.b(m.a(x) - own.centre(m.a(x), [1])[:, None]), "own::centre", "aten::mean"),
    "a statistic": (lambda m, x: m.b(m.a(x) / (1 + own.power(m.a(x))[:, None])), "own::power", Reduces(1)),
    "a norm": (lambda m, x: m.b(own.rms(m.a(x), m.scale)), "own::rms", Normalises(-1)),
    "along rows": (lambda m, x: m.b(own.smooth(m.a(x).t()).t()), "own::smooth", Mixes((-1,))),
    "a function": (lambda m, x: m.b(own.halves_swapped(torch.relu(m.a(x)))), "own::halves_swapped", swapped),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::prunefuse_al.errors.NoEffectWarning")  # not every network reads both
@pytest.mark.parametrize(("forward", "name", "rule"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_rules(forward: Callable[[Any, Tensor], Tensor], name: str, rule: Any, ratio: float) -> None:
    network = net(forward)
    network.square, network.scale = nn.Parameter(torch.randn(16, 16) / 4), nn.Parameter(torch.rand(16) + 0.5)
    with register_rule(name, rule):
        proxy = prune(network, X, ratio)
    assert proxy.module.a.out_features == int(16 * (1 - ratio))
    if ratio == 0.5:
        assert_exact(network, proxy, X)


def test_what_is_not_understood_beside_what_is_names_the_remedy() -> None:
    network = Wrapped(
        lambda m, x: m.c(torch.relu(m.b(own.swish(m.a(x), 2.0)))),
        a=nn.Linear(6, 32),
        b=nn.Linear(32, 8),
        c=nn.Linear(8, 3),
    )
    with pytest.warns(NoEffectWarning, match=r"goes through own::swish.*; say what that does with .*register_rule"):
        prune(network, X, 0.5)


def test_what_is_mixed_stays() -> None:
    network = Wrapped(lambda m, x: m.c(own.spectrum(m.b(torch.relu(m.a(x))))), a=nn.Linear(6, 16), b=nn.Linear(16, 10),
                      c=nn.Linear(6, 3))  # fmt: skip
    with register_rule("own::spectrum", Mixes(-1)), pytest.warns(NoEffectWarning, match="kept whole by own::spectrum"):
        proxy = prune(network, X, 0.5)
    assert widths(proxy) == [8, 10, 3]


WRONG: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, Any]] = {
    "mixes what it says is pointwise": (
        lambda m, x: m.b(own.smooth(m.a(x))), "own::smooth", "elementwise",
    ),
    "a sum over what it says it moves": (
        lambda m, x: m.b(own.smooth(m.a(x))), "own::smooth",
        lambda call: call.moved(lambda t: t.flip(1), *call.marks()),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("forward", "name", "rule"), WRONG.values(), ids=WRONG)
def test_a_wrong_rule_makes_no_wrong_proxy(forward: Callable[[Any, Tensor], Tensor], name: str, rule: Any) -> None:
    with register_rule(name, rule), pytest.raises(PruningError, match="the proxy is not a sub-network"):
        prune(net(forward), X, 0.5)


MISFITS: dict[str, tuple[Any, str]] = {
    "another shape": ("elementwise", r"own::power returned marks of \[\[2, 16\]\]; the operation returned \[\[2\]\]"),
    "no such dimension": (Reduces(5), r"power failed: IndexError: Reduces\(dims=\(5,\)\) is no rule for \[2, 16\]"),
    "a reduction along another": (Reduces(0), "own::power returned marks of"),
    "nothing": (lambda call: None, "own::power returned None, which are no marks"),
    "numbers": (lambda call: [3], r"own::power returned \[3\], which are no marks"),
    "a statistic that cannot be replayed": (
        lambda call: (call.note(()), call.moved(lambda t: t[:, 0], *call.marks()))[1:], "notes a statistic, and has no",
    ),
    "too many": (lambda call: 2 * call.marks(), r"returned marks of \[\[2, 16\], \[2, 16\]\]"),
    "an error": (lambda call: {}["x"], r"own::power failed: KeyError: 'x'; correct it, or remove\(\) it"),
    "shapes that do not go together": (
        lambda call: call.together(*call.marks(), call.moved(lambda t: t[:, :3], *call.marks())), "power failed: Runti",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "words"), MISFITS.values(), ids=MISFITS)
def test_a_rule_that_does_not_fit_is_said(rule: Any, words: str) -> None:
    network = net(lambda m, x: m.b(m.a(x) * own.power(m.a(x))[:, None]))
    with register_rule("own::power", rule), pytest.raises(PruningError, match=words):
        prune(network, X, 0.5)


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "no operation": ("own::no_such", "elementwise", r"operation='own::no_such'; pass the name of an operation"),
    "no namespace": ("no_such", "elementwise", "operation='no_such'"),
    "an overload": ("own::swish.default", "elementwise", "operation='own::swish.default'"),
    "no name": (own.swish, "elementwise", "operation=.*swish.*; pass the name of an operation"),
    "in the table": ("mm", "elementwise", "operation='mm'; pass an operation that has no rule yet; pass replace=True"),
    "in the table, in full": ("aten::mm", "elementwise", "no rule yet; pass replace=True to replace"),
    "known by its tag": ("aten::gelu", "elementwise", "no rule yet; pass replace=True to replace"),
    "broken down by torch": ("aten::layer_norm", "elementwise", "give rules to those that it breaks this one into"),
    "broken down by its author": ("own::broken_down", "elementwise", "torch runs as a whole"),
    "writes into what it gets": ("own::overwrite", "elementwise", "writes into its arguments"),
    "no rule": ("own::swish", "elementary", "rule='elementary'; pass \"elementwise\", \"linear\", the name of"),
    "not understood itself": ("own::swish", "sort", "rule='sort'; pass"),
    "one that is broken down": ("own::dense", "aten::linear", "rule='aten::linear'; pass \"elementwise\", \"linear\""),
    "a class": ("own::swish", Mixes, "the class Mixes, not an instance"),
    "of other arguments": ("own::swish", "mm", r"rule='mm' is that of aten::mm.*own::swish\(Tensor x, float scale\)"),
    "no rule at all": ("own::swish", 3, "rule=3; pass"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "rule", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(name: Any, rule: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        register_rule(name, rule)


@pytest.mark.parametrize("dims", [(), "last", 1.5, (0, "last"), True, None])
def test_what_are_no_dimensions(dims: Any) -> None:
    with pytest.raises(InputError, match="Mixes: dims="):
        Mixes(dims)


def test_an_operation_with_the_name_of_one_of_torchs_own_is_not_taken_for_it() -> None:
    network = net(lambda m, x: m.b(own.sum(m.a(x))))
    with pytest.raises(PruningError, match="goes through own::sum, which is not understood"):
        prune(network, X, 0.5)
    with register_rule("own::sum", "elementwise"):
        assert widths(prune(network, X, 0.5)) == [8, 3]


def thinned() -> bool:
    try:
        return widths(prune(net(swish), X, 0.5)) == [8, 3]
    except PruningError:
        return False


def test_the_last_rule_holds_and_each_is_taken_back_in_any_order() -> None:
    first = register_rule("own::swish", "elementwise")
    with pytest.raises(InputError, match="no rule yet; pass replace=True"):
        register_rule("own::swish", Mixes(-1))
    second = register_rule("own::swish", Mixes(-1), replace=True)
    assert not thinned()
    first.remove()
    assert not thinned()
    first.remove()
    second.remove()
    third = register_rule("own::swish", "elementwise")  # there is none now
    fourth = register_rule("own::swish", Mixes(-1), replace=True)
    fourth.remove()
    assert thinned()
    third.remove()
    assert not thinned()


def test_a_rule_goes_with_its_block_even_when_that_fails() -> None:
    with pytest.raises(KeyError), register_rule("own::swish", "elementwise"):
        raise KeyError
    assert not thinned()


def test_threads_register_and_prune_side_by_side() -> None:
    """Each waits for the other's turn: a pass and its replay never see two tables."""
    stop, found = threading.Event(), []

    def go() -> None:
        while not stop.is_set():
            with register_rule("own::gate", Mixes(-1)):
                pass

    with register_rule("own::swish", "elementwise"):
        other = threading.Thread(target=go)
        other.start()
        try:
            found = [thinned() for _ in range(3)]
        finally:
            stop.set()
            other.join()
    assert found == [True] * 3


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert not thinned(), "a rule was left behind"
