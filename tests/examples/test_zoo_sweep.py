"""The sweep over other people's networks: which it takes, what it calls what came of them, and what it sees."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from fakes import run_script
from torch import nn

from examples.benchmarks import zoo_members, zoo_sweep
from examples.benchmarks.zoo_sweep import EXACT, FAILED, INEXACT, REFUSED, SLOW, THICK, UNMADE, WRONG, Result
from prunefuse_al import Proxy, prune

SCRIPT = Path(zoo_sweep.__file__)


@pytest.fixture(autouse=True)
def own_draws() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize(
    ("members", "first"),
    [
        (["net_base", "net_tiny", "net_small"], "net_tiny"),
        (["net50", "net101", "net18"], "net18"),
        (["net_base_384", "net_base_224"], "net_base_224"),
        (["test_net", "net_atto"], "test_net"),
        (["net_large", "net"], "net"),
        (["net_1b_patch14", "net_large_patch14"], "net_large_patch14"),
    ],
)
def test_of_a_family_the_smallest_is_taken(members: list[str], first: str) -> None:
    assert zoo_members.smallest(members, zoo_members.start) == [first]


def test_names_that_begin_otherwise_are_other_families() -> None:
    assert zoo_members.smallest(["resnet18", "resnext50", "test_resnet", "vit_b_16"], zoo_members.start) == [
        "resnext50",
        "test_resnet",
        "vit_b_16",
    ]


def test_a_configuration_becomes_small_with_its_heads_alike() -> None:
    given = {"hidden_size": 768, "num_hidden_layers": 12, "vocab_size": 30_000, "hidden_act": "gelu", "depths": [3, 9]}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 12, "pad_token_id": None, "eos_token_id": 50_000}
    inner = {"text_config": {"model_type": "bert", "hidden_size": 768}}
    small = zoo_members.tiny(given | heads | inner)
    assert small["num_attention_heads"] == small["num_key_value_heads"]
    assert small["hidden_size"] % small["num_attention_heads"] == 0
    assert small["vocab_size"] > max(small["pad_token_id"], small["eos_token_id"])
    assert small["depths"] == [1, 1]
    assert small["text_config"] == {"model_type": "bert", "hidden_size": small["hidden_size"]}
    assert "hidden_act" not in small


def test_padded_texts_end_with_the_last_token_that_counts() -> None:
    torch.manual_seed(0)
    texts = zoo_members.texts(4, 8, masked=True)
    last = texts["attention_mask"].sum(1) - 1
    assert last.tolist() == [7, 5, 7, 5]
    assert texts["input_ids"].gather(1, last[:, None]).flatten().tolist() == [2, 2, 2, 2]
    assert (texts["input_ids"] == 2).sum().item() == 4
    assert texts["input_ids"][1, 6:].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("ratio", "share", "claimed", "holds", "category"),
    [
        (0.5, 0.3, True, True, EXACT),
        (0.5, 0.3, False, False, INEXACT),
        (0.5, 0.3, False, True, INEXACT),
        (0.5, 0.3, True, False, WRONG),
        (0.5, 0.71, True, True, THICK),
        (0.5, 0.69, True, True, EXACT),
        (0.3, 0.71, True, True, EXACT),
        (0.7, 0.6, True, True, THICK),
        (0.5, 0.9, True, False, WRONG),  # a wrong claim is the worst of both
    ],
)
def test_what_came_of_a_network_has_a_name(
    ratio: float, share: float, claimed: bool, holds: bool, category: str
) -> None:
    assert zoo_sweep.judged(ratio, share, claimed=claimed, holds=holds) == category


class Norms(nn.Module):
    """Convolutions, BatchNorm and a head, of pictures of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.fixture
def member() -> zoo_members.Member:
    torch.manual_seed(0)
    return zoo_members.Member(Norms().eval(), lambda rows, larger: torch.randn(rows, 3, *[8 + 4 * larger] * 2))


def test_a_proxy_equals_what_it_is_fused_into(member: zoo_members.Member) -> None:
    assert zoo_sweep.compared(member, prune(member.network, member.inputs(2, False), 0.5)).holds


def test_a_wrong_map_is_seen(member: zoo_members.Member) -> None:
    proxy = prune(member.network, member.inputs(2, False), 0.5)
    found = zoo_sweep.compared(member, other_channels(proxy, "body.3.weight", dim=1))
    assert not found.holds
    assert found.distance > 0.01


def other_channels(proxy: Proxy, name: str, dim: int) -> Proxy:
    """Return the proxy with a map that puts its channels along one dimension elsewhere."""
    own = proxy.channel_map.tensors[name]
    kept = list(own.kept)
    assert kept[dim] is not None
    everything = torch.arange(own.shape[dim])
    kept[dim] = everything[~torch.isin(everything, kept[dim])]
    wrong = replace(proxy.channel_map, tensors={**proxy.channel_map.tensors, name: replace(own, kept=tuple(kept))})
    return replace(proxy, channel_map=wrong)


@pytest.mark.parametrize(
    ("one", "other", "far"),
    [
        (torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [2.0]]), 0.0),
        (torch.tensor([[100.1], [101.0]]), torch.tensor([[100.0], [101.0]]), 0.2),  # of what differs between rows
        (torch.ones(2, 1), torch.ones(2, 2), float("inf")),
        (torch.full((2, 1), torch.nan), torch.ones(2, 1), float("inf")),
    ],
)
def test_distances_are_of_what_differs_between_rows(one: torch.Tensor, other: torch.Tensor, far: float) -> None:
    assert zoo_sweep.distance(one, other) == pytest.approx(far, rel=1e-3)


@pytest.mark.parametrize(
    ("code", "category"), [(-signal.SIGXCPU, SLOW), (-signal.SIGKILL, SLOW), (-signal.SIGSEGV, FAILED), (1, FAILED)]
)
def test_a_process_that_died_says_why(code: int, category: str) -> None:
    assert zoo_sweep.lost("library/net", 0.5, code).category == category


@pytest.mark.parametrize(
    ("patterns", "libraries"),
    [(["*"], 3), (["timm/vit*"], 1), (["torch*/vgg*", "*/res*"], 3), (["torch*/vgg*"], 1), (["other/*"], 0)],
)
def test_only_libraries_that_patterns_speak_of_are_asked(patterns: list[str], libraries: int) -> None:
    assert len(zoo_members.asked(patterns)) == libraries


def test_names_are_those_that_fit_a_pattern() -> None:
    assert zoo_members.names(["torchvision/vgg*"]) == ["torchvision/vgg11", "torchvision/vgg11_bn"]


def test_shares_are_of_the_networks_that_run_without_pruning() -> None:
    results = [
        Result("a/one", 0.5, EXACT, seconds=2),
        Result("a/two", 0.5, REFUSED, "why", seconds=9),
        Result("b/three", 0.5, EXACT),
        Result("b/four", 0.5, THICK),
        Result("b/five", 0.5, UNMADE, seconds=99),
    ]
    lines = zoo_sweep.table(results).splitlines()
    assert lines[0].startswith("| | networks | share | a | b |")
    cells = [[cell.strip() for cell in line.split("|")[1:6]] for line in lines[2:10]]
    rows = {category: numbers for category, *numbers in cells}
    assert rows[EXACT] == ["2", "50.0%", "1", "1"]
    assert rows[REFUSED] == ["1", "25.0%", "1", "0"]
    assert rows[UNMADE] == ["1", "", "0", "1"]
    assert rows.keys() == zoo_sweep.CATEGORIES.keys()
    assert lines[-1].startswith("slowest: a/two 9 s, a/one 2 s")


def test_what_stands_in_the_file_is_not_run_again(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    before = Result("torchvision/resnet18", 0.5, REFUSED, "as it was")
    file.write_text(json.dumps(asdict(before)) + "\n")
    options = ["--only", "torchvision/resnet18", "torchvision/squeezenet*", "--results", str(file)]
    printed = run_script(SCRIPT, tmp_path, *options)
    first, second = zoo_sweep.known(file)
    assert first == before
    assert (second.name, second.category) == ("torchvision/squeezenet1_0", EXACT)
    assert second.parameters < 0.5
    assert second.seconds > 0
    assert "2 networks at p = 0.5" in printed
