"""How a batch reaches a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import mlp, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from prunefuse_al import PrunedProxySelector, TorchTrainer
from prunefuse_al.data.datasets import as_dataset
from prunefuse_al.data.randomness import isolated_rng
from prunefuse_al.errors import InputError
from prunefuse_al.network.forward import forward_for
from prunefuse_al.network.kinds import as_floating, ways
from prunefuse_al.network.signals import collect
from prunefuse_al.testing.contracts import unchanged_global_rng
from prunefuse_al.training.transforms import RandomCropFlip

CPU = torch.device("cpu")


def test_grey_pictures_have_strides_that_say_channels_first() -> None:
    """The stride of a dimension of size 1 means nothing, but torch goes by it when it chooses a convolution."""
    pictures = torch.arange(5 * 8 * 6.0).view(5, 8, 6, 1).permute(0, 3, 1, 2)  # as ToTensor lays out a grey picture
    assert pictures.is_contiguous()
    assert pictures.contiguous().stride() == (48, 1, 6, 1)
    network = seeded(lambda: nn.Conv2d(1, 4, 3))
    plain = forward_for(network, torch.device("cpu")).inputs(pictures)
    assert plain.stride() == (48, 48, 6, 1)
    assert torch.equal(plain, pictures)
    assert plain.data_ptr() == pictures.data_ptr()  # nothing was copied
    with isolated_rng(0):
        shifted = forward_for(network, torch.device("cpu"), transform=RandomCropFlip(1)).inputs(plain)
    assert shifted.stride() == (48, 48, 6, 1)
    asked = forward_for(network, torch.device("cpu"), channels_last=True).inputs(pictures)
    assert (asked.stride(), asked.data_ptr()) == ((48, 48, 6, 1), pictures.data_ptr())
    colour = torch.zeros(2, 3, 4, 5)
    colours = seeded(lambda: nn.Conv2d(3, 4, 3))
    asked = forward_for(colours, torch.device("cpu"), channels_last=True).inputs(colour)
    assert asked.is_contiguous(memory_format=torch.channels_last)
    turned = colour.transpose(2, 3)
    assert forward_for(colours, torch.device("cpu")).inputs(turned).stride() == turned.stride()


class Net(nn.Module):
    """Layers by name, and a function of them and the inputs."""

    def __init__(self, answer: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.answer = answer
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.answer(self, *inputs)


def net(answer: Callable[..., Tensor], **layers: Callable[[], nn.Module]) -> Net:
    return seeded(lambda: Net(answer, **{name: make() for name, make in layers.items()}))


N, T = 24, 7
RNG = np.random.default_rng(0)
LENGTHS = torch.from_numpy(RNG.integers(2, T + 1, N))
STEPS = torch.from_numpy(RNG.normal(size=(N, T, 3))).float()
PADDING = torch.arange(T) >= LENGTHS[:, None]
IDS = torch.from_numpy(RNG.integers(1, 12, (N, T))).masked_fill(PADDING, 0)
TABLE = torch.from_numpy(RNG.integers(-9, 9, (N, 4)))
BYTES = torch.from_numpy(RNG.integers(0, 256, (N, 4), dtype=np.uint8))


def attend(s: Any, x: Tensor, mask: Tensor) -> Tensor:
    h = s.inner(x)
    return s.head(s.attention(h, h, h, key_padding_mask=mask, need_weights=False)[0][:, 0])


def inner() -> nn.Linear:
    return nn.Linear(3, 16)


def attention() -> nn.Module:
    return nn.MultiheadAttention(16, 2, batch_first=True)


def head() -> nn.Linear:
    return nn.Linear(16, 2)


def row() -> nn.Linear:
    return nn.Linear(4, 2)


def words() -> nn.Embedding:
    return nn.Embedding(12, 16)


def encode(s: Any, ids: Tensor) -> Tensor:
    return s.head(s.encoder(s.words(ids), src_key_padding_mask=ids.eq(0))[:, 0])


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def last_step(s: Any, x: Tensor, lengths: Tensor) -> Tensor:
    return s.head(s.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1][0][0])


def average(s: Any, x: Tensor, mask: Tensor) -> Tensor:
    kept = ~mask
    return s.head((s.inner(x) * kept[..., None]).sum(1) / kept.sum(1, keepdim=True))


KEPT: dict[str, tuple[Net, tuple[Tensor, ...]]] = {
    "a padding mask": (net(attend, inner=inner, attention=attention, head=head), (STEPS, PADDING)),
    "a mask inverted": (net(average, inner=inner, head=head), (STEPS, PADDING)),
    "a mask that fills": (
        net(lambda s, x, m: s.head(s.inner(x).masked_fill(m[..., None], 0).sum(1)), inner=inner, head=head),
        (STEPS, PADDING),
    ),
    "lengths": (net(last_step, lstm=lambda: nn.LSTM(3, 16, batch_first=True), head=head), (STEPS, LENGTHS)),
    "one_hot": (net(lambda s, i: s.head(F.one_hot(i, 16).float().mean(1)), head=head), (IDS,)),
    "ids and the mask of them": (net(encode, words=words, encoder=encoder, head=head), (IDS,)),
    "rows chosen": (
        net(lambda s, x, n: s.head(s.inner(x)[torch.arange(len(x)), n - 1]), inner=inner, head=head),
        (STEPS, LENGTHS),
    ),
    "ids beside floating numbers": (
        net(lambda s, i, x: s.head(s.words(i).mean(1) + s.inner(x).mean(1)), words=words, inner=inner, head=head),
        (IDS, STEPS),
    ),
    "bytes that the network scales": (net(lambda s, x: s.layer(x / 255), layer=row), (BYTES,)),
    "a graph, whose edges are no rows": (
        net(lambda s, x, e: s.layer(x.index_add(0, e[1], x[e[0]])), layer=lambda: nn.Linear(3, 2)),
        (STEPS[:, 0], torch.stack([torch.arange(N), torch.arange(N).flip(0)])),
    ),
}


def kinds_seen(network: nn.Module) -> list[tuple[torch.dtype, ...]]:
    """Return a list that grows by what the network, or a copy of it, is called with."""
    seen: list[tuple[torch.dtype, ...]] = []
    network.register_forward_pre_hook(lambda _, args: seen.append(tuple(leaf.dtype for leaf in args)))
    return seen


def inputs_of(given: tuple[Tensor, ...]) -> Any:
    return given if len(given) > 1 else given[0]


@pytest.mark.parametrize("name", KEPT)
def test_whole_numbers_and_bools_stay_what_they_are_where_the_network_takes_them(name: str) -> None:
    network, given = KEPT[name]
    inputs = forward_for(network, CPU).inputs(inputs_of(given))
    assert [leaf.dtype for leaf in (inputs if len(given) > 1 else [inputs])] == [leaf.dtype for leaf in given]
    if "graph" in name:  # is no array of rows
        return
    with torch.no_grad():
        expected = network.eval()(*given)
    torch.testing.assert_close(collect(network, as_dataset(inputs_of(given)), batch_size=N).logits, expected)


CAST: dict[str, tuple[Net, tuple[Tensor, ...], tuple[torch.dtype, ...]]] = {
    "a table": (net(lambda s, x: s.layer(x), layer=row), (TABLE,), (torch.float32,)),
    "a table of int32": (net(lambda s, x: s.layer(x), layer=row), (TABLE.int(),), (torch.float32,)),
    "a table of bools": (net(lambda s, x: s.layer(x), layer=row), (TABLE > 0,), (torch.float32,)),
    "a network in double": (
        net(lambda s, x: s.layer(x), layer=lambda: row().double()),
        (TABLE,),
        (torch.float64,),
    ),
    "half precision": (net(lambda s, x: s.layer(x), layer=lambda: nn.Linear(3, 2)), (STEPS.half(),), (torch.float32,)),
    "ids of int16": (net(encode, words=words, encoder=encoder, head=head), (IDS.short(),), (torch.int64,)),
    "ids of bytes": (net(encode, words=words, encoder=encoder, head=head), (IDS.byte(),), (torch.int64,)),
    "ids and a column of whole numbers": (
        net(
            lambda s, i, x: s.head(s.words(i).mean(1) + s.layer(x)),
            words=words,
            layer=lambda: nn.Linear(4, 16),
            head=head,
        ),
        (IDS, TABLE),
        (torch.int64, torch.float32),
    ),
    "a table beside a mask": (
        net(lambda s, x, m: s.layer(x).masked_fill(m, 0), layer=row),
        (TABLE, TABLE[:, :2] > 0),
        (torch.float32, torch.bool),
    ),
    "a table beside a mask of whole numbers": (
        net(lambda s, x, m: s.layer(x) * m, layer=row),
        (TABLE, (TABLE[:, :2] > 0).long()),
        (torch.float32, torch.int64),
    ),
    "two tables": (
        net(lambda s, a, b: s.layer(a) + s.other(b), layer=row, other=row),
        (TABLE, TABLE.flip(0)),
        (torch.float32, torch.float32),
    ),
}


@pytest.mark.parametrize("name", CAST)
def test_as_few_as_possible_become_floating_and_keep_their_values(name: str) -> None:
    network, given, kinds = CAST[name]
    seen = kinds_seen(network)
    found = collect(network, as_dataset(inputs_of(given)), batch_size=10).logits
    assert seen == [kinds] * 3  # and no row that was not asked for
    with torch.no_grad():
        expected = network.eval()(*(leaf.to(kind) for leaf, kind in zip(given, kinds, strict=True)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["a padding mask", "lengths", "ids and the mask of them", "a table beside a mask"])
def test_the_kinds_are_the_same_in_training_scoring_and_after_loading(name: str, tmp_path: Path) -> None:
    network, given, *kinds = CAST[name] if name in CAST else KEPT[name]
    expected = kinds[0] if kinds else tuple(leaf.dtype for leaf in given)
    trainer = TorchTrainer(2, 8, progress=False, device="cpu")
    seen = kinds_seen(network)
    selector = PrunedProxySelector(network, 0, trainer=trainer, random_state=0).fit(
        inputs_of(given), torch.arange(N) % 2
    )
    picked = selector.fit(inputs_of(given), torch.arange(N) % 2).query(inputs_of(given), 5)
    selector.save(tmp_path / "s")
    again = PrunedProxySelector.load(tmp_path / "s", network, trainer=trainer)
    assert (again.query(inputs_of(given), 5) == picked).all()
    selector.fit_target()
    floating = tuple(
        torch.float64 if kind.is_floating_point else kind for kind in expected
    )  # recurrent ones are counted so
    assert expected in seen
    assert set(seen) <= {expected, floating}


def test_what_lies_under_a_padding_mask_changes_no_pick() -> None:
    network = KEPT["a padding mask"][0]
    X, labels = STEPS, torch.arange(N) % 2
    Z = X.masked_fill(PADDING[..., None], 5.0)
    selector = PrunedProxySelector(network, 0, trainer=TorchTrainer(2, progress=False, device="cpu"), random_state=0)
    selector.fit((X, PADDING), labels)
    assert selector.query((X, PADDING), 6).tolist() == selector.query((Z, PADDING), 6).tolist()
    np.testing.assert_allclose(selector.predict_proba((X, PADDING)), selector.predict_proba((Z, PADDING)), atol=1e-6)


def test_finding_out_leaves_no_trace() -> None:
    def noisy(s: Any, x: Tensor) -> Tensor:
        return s.head(F.dropout(s.norm(s.layer(x)), 0.5) + torch.rand(1) + float(np.random.rand()))  # in eval mode too

    network = net(noisy, layer=lambda: nn.Linear(4, 16), norm=lambda: nn.BatchNorm1d(16), head=head)
    network.norm.eval()  # which the user froze
    before, seen = {name: value.clone() for name, value in network.state_dict().items()}, kinds_seen(network)
    modes = [module.training for module in network.modules()]
    with unchanged_global_rng():
        forward = forward_for(network, CPU)
        assert forward.inputs(TABLE).dtype == torch.float32
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not seen
    assert all(p.grad is None for p in network.parameters())
    assert forward.inputs(STEPS[:, 0]).dtype == torch.float32


def test_it_is_found_out_once_for_each_combination_of_kinds() -> None:
    calls: list[Any] = []

    def counted(s: Any, x: Tensor) -> Tensor:
        calls.append((tuple(x.shape), x.dtype))
        return s.layer(x.reshape(len(x), -1)[:, :4])

    forward = forward_for(net(counted, layer=row), CPU)
    for rows in (TABLE[:9], TABLE[9:], IDS[:5], IDS[:6, :5]):
        forward.inputs(rows)
    assert calls == [((2, 4), torch.int64), ((2, 4), torch.float32)]
    forward.inputs(STEPS)
    forward.inputs(IDS[..., None])
    assert calls[2:] == [((2, 7, 1), torch.int64), ((2, 7, 1), torch.float32)]


REFUSED: dict[str, tuple[Net, tuple[Tensor, ...], str]] = {
    "a table of another width": (
        net(lambda s, x: s.layer(x), layer=lambda: nn.Linear(5, 2)),
        (TABLE,),
        r"failed on a batch int64 \[24, 4\]: .*\(24x4 and 5x2\).*Linear\(in_features=5",
    ),
    "bytes": (
        net(lambda s, x: s.layer(x), layer=row),
        (BYTES,),
        r"uint8 \[24, 4\]: scale pictures",
    ),
    "a bool where numbers are wanted": (
        net(lambda s, a, b: s.layer(a) + s.other(b), layer=row, other=row),
        (TABLE, TABLE > 0),
        r"failed on a batch int64 \[24, 4\] and bool \[24, 4\].*data of 0 and 1 to floating",
    ),
    "a mask of whole numbers for attention": (
        net(attend, inner=inner, attention=attention, head=head),
        (STEPS, PADDING.long()),
        r"failed on a batch float32 \[24, 7, 3\] and int64 \[24, 7\]: only bool and floating types of key_padding"
        ".*convert it to what the network wants",
    ),
    "a table and such a mask": (
        net(attend, inner=inner, attention=attention, head=head),
        (STEPS.long(), PADDING.long()),
        r"failed on a batch int64 \[24, 7, 3\] and int64 \[24, 7\]: .*: only bool and floating types of key_padding",
    ),
    "ids that are not there": (
        net(encode, words=words, encoder=encoder, head=head),
        (IDS + 20,),
        r"failed on a batch int64 \[24, 7\]: index out of range",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_kind_helps_is_said_with_the_kinds_that_were_given(name: str) -> None:
    network, given, says = REFUSED[name]
    with pytest.raises(InputError, match=says):
        collect(network, as_dataset(inputs_of(given)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("f", ["F"]),
        ("l", ["l", "F"]),
        ("bf", ["bF"]),
        ("b", ["b", "F"]),
        ("s", ["l", "F"]),
        ("B", ["B", "l", "F"]),
        ("ll", ["ll", "Fl", "lF", "FF"]),
        ("lbi", ["lbi", "Fbi", "lbF", "FbF"]),
        ("lllll", ["lllll", "FFFFF"]),
    ],
)
def test_whole_numbers_come_first_and_as_few_as_possible_are_cast(given: str, expected: list[str]) -> None:
    kinds = {
        "f": torch.float16,
        "l": torch.int64,
        "b": torch.bool,
        "s": torch.int16,
        "B": torch.uint8,
        "i": torch.int32,
    }
    kinds["F"] = torch.float32
    found = ways([torch.zeros(1, dtype=kinds[letter]) for letter in given], torch.float32)
    assert found == [tuple(kinds[letter] for letter in way) for way in expected]


@pytest.mark.parametrize(
    ("values", "kind", "wrong"),
    [
        ([2**24, -(2**24), 2**25, -(2**40)], torch.float32, None),
        ([0, 2**24 + 1], torch.float32, 2**24 + 1),
        ([-(2**24) - 1], torch.float32, -(2**24) - 1),
        ([2**63 - 1], torch.float32, 2**63 - 1),
        ([2**63 - 1], torch.float64, 2**63 - 1),
        ([-(2**63)], torch.float64, None),
        ([2**24 + 1, 2**53], torch.float64, None),
        ([2048, 4096], torch.float16, None),
        ([2049], torch.float16, 2049),
        ([70_000], torch.float16, 70_000),
        ([257], torch.bfloat16, 257),
    ],
)
def test_whole_numbers_that_would_be_rounded_are_refused(values: list[int], kind: Any, wrong: int | None) -> None:
    given = torch.tensor([values])
    if wrong is None:
        assert as_floating(given, kind).double().to(torch.int64).tolist() == [values]
        return
    with pytest.raises(
        InputError, match=rf"would round whole numbers of a batch int64 \[1, {len(values)}\].* {wrong}: "
    ):
        as_floating(given, kind)


def test_numbers_that_would_be_rounded_stop_a_training_and_name_what_helps() -> None:
    X = torch.arange(40).view(10, 4) * 1_000_003 + 2**30
    selector = PrunedProxySelector(mlp(4, 8, 2), trainer=TorchTrainer(1, progress=False, device="cpu"), random_state=0)
    with pytest.raises(InputError, match=r"X\.astype\('float32'\).*model\.double\(\)"):
        selector.fit(X, torch.arange(10) % 2)
    assert selector.round == 0
    selector.fit(X.float(), torch.arange(10) % 2)
