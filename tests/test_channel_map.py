"""Index arithmetic on hand-made maps, and what is refused. The laws over architectures stand in tests/laws."""

from __future__ import annotations

import json

import pytest
import torch

from prunefuse_al.errors import FusionError, InputError
from prunefuse_al.fusing import fusion_of
from prunefuse_al.fusing.channel_map import ChannelMap, Stream, TensorMap

MAP = ChannelMap({"w": TensorMap((3, 4), (torch.tensor([0, 2]), torch.tensor([1, 3])), (1,))})
DENSE = {"w": torch.arange(12.0).reshape(3, 4)}


def test_extract_takes_the_kept_entries() -> None:
    assert MAP.extract(DENSE)["w"].tolist() == [[1, 3], [9, 11]]


def test_scatter_scales_what_flows_from_removed_inputs_into_kept_rows() -> None:
    out = MAP.scatter({"w": torch.tensor([[-1.0, -2], [-3, -4]])}, DENSE, cross=0.5)["w"]
    assert out.tolist() == [[0, -1, 1, -2], [4, 5, 6, 7], [4, -3, 5, -4]]
    assert DENSE["w"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_compose_is_indices_of_indices() -> None:
    inner = ChannelMap({"w": TensorMap((2, 2), (torch.tensor([1]), None), (1,))})
    composed = MAP.compose(inner)
    assert composed.extract(DENSE)["w"].tolist() == [[9, 11]]
    assert composed.extract(DENSE)["w"].equal(inner.extract(MAP.extract(DENSE))["w"])


def test_a_scalar_goes_through() -> None:
    scalar = ChannelMap({"n": TensorMap((), ())})
    assert scalar.extract({"n": torch.tensor(7)})["n"] == 7
    assert scalar.scatter({"n": torch.tensor(8)}, {"n": torch.tensor(7)}, cross=0)["n"] == 8


def test_equality_and_repr() -> None:
    whole = ChannelMap({"w": TensorMap((2, 2), (None, None))})
    assert whole == ChannelMap({"w": TensorMap((2, 2), (torch.arange(2), None))})
    assert whole != MAP
    assert repr(MAP) == "ChannelMap(1 tensors, 1 thinned)"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(FusionError, match=r"dense network: 'w' has shape \[2, 4\], the channel map expects \[3, 4\]"):
        MAP.extract({"w": torch.zeros(2, 4)})
    with pytest.raises(FusionError, match="dense network: 'v' is not in the channel map"):
        MAP.extract({"v": torch.zeros(2, 4)})
    with pytest.raises(FusionError, match=r"proxy: 'w' has shape \[1, 2\], the channel map expects \[2, 2\]"):
        MAP.scatter({"w": torch.zeros(1, 2)}, DENSE)
    with pytest.raises(FusionError, match=r"proxy and dense states differ in \['w'\]"):
        MAP.scatter({}, DENSE)
    with pytest.raises(
        FusionError, match=r"'w' is \[2, 2\] after the outer map, but the inner one starts from \[3, 4\]"
    ):
        MAP.compose(MAP)
    with pytest.raises(FusionError, match=r"the maps differ in \['v', 'w'\]"):
        MAP.compose(ChannelMap({"v": TensorMap((1,), (None,))}))


@pytest.mark.parametrize("cross", ["keep", None, float("inf"), float("nan"), True])
def test_an_unknown_cross_is_refused(cross: object) -> None:
    with pytest.raises(InputError, match='pass "preserve", "copy" or a finite number'):
        fusion_of(cross)  # type: ignore[arg-type]


def through_json(channel_map: ChannelMap) -> ChannelMap:
    indices, rest = channel_map.to_tensors()
    return ChannelMap.from_tensors(indices, json.loads(json.dumps(rest)))


def test_lists_come_back_as_lists_and_tuples_as_tuples() -> None:
    attributes = {"a:dims": [4, 2, -1], "a:shape": (2, 0), "b:width": 3, "b:_heads": 2}
    back = through_json(ChannelMap(MAP.tensors, attributes)).attributes
    assert back == attributes
    assert [type(value) for value in back.values()] == [list, tuple, int, int]


def test_lists_of_files_that_do_not_say_come_back_as_tuples() -> None:
    indices, rest = ChannelMap(MAP.tensors, {"a:shape": (2,)}).to_tensors()
    del rest["lists"]
    assert ChannelMap.from_tensors(indices, json.loads(json.dumps(rest))).attributes == {"a:shape": (2,)}


def test_copies_and_streams_come_back() -> None:
    tensors = {"n": TensorMap((3,), (torch.tensor([0, 2]),)), "w": TensorMap((3, 4), (torch.tensor([0, 2]), None))}
    stream = Stream((("w", 0),), (("norm", "n"),), True, (("n", 0, ("w",)),))
    for whole in (
        ChannelMap(tensors, streams=(stream,)),
        ChannelMap(tensors, copies={"w:0": torch.tensor([[1], [2]])}),
    ):
        assert through_json(whole) == whole


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([[1], [3]], "within 0 to 2"),
        ([[-2], [0]], "within 0 to 2"),
        ([[0], [2]], "do not lead from kept positions to others"),
        ([[1], [1]], "do not lead from kept positions to others"),
        ([[1, 1], [0, 2]], "fill a position twice"),
        ([1, 2], "they are two rows"),
        ([[1.0], [2.0]], "they are two rows"),
    ],
)
def test_copies_that_are_none_are_refused(pairs: list[object], words: str) -> None:
    indices, rest = MAP.to_tensors()
    with pytest.raises(FusionError, match=words):
        ChannelMap.from_tensors({**indices, "w:0:copies": torch.tensor(pairs)}, rest)


@pytest.mark.parametrize(
    "rest", [None, 3, [], {}, {"tensors": 3}, {"tensors": {"w": None}}, {"tensors": {"w": [3, 3]}}]
)
def test_what_describes_no_map_is_refused(rest: object) -> None:
    with pytest.raises(FusionError, match="describes no channel map"):
        ChannelMap.from_tensors({}, rest)  # type: ignore[arg-type]
