"""Plans that cannot be run are refused with words, and nothing is written, inside or outside of their folder."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "paper"))

import run
from plan import Plan, read_plan
from plans import GROUPS, PLANS

PATHS = ("../../victim", "/tmp/victim", "..", ".", "a/b", "a\\b", "C:\\victim", "~/victim", "../", "a\0b", "a\nb", "")
NO_NAMES = (
    *PATHS,
    " a",
    "a ",
    "a.",
    "-a",
    ".a",
    "x" * 101,
    "é" * 101,
    "plan.json",
    "Records.jsonl",
    "STATE",
    "timings",
)
NO_TEXTS = (None, True, 3, 1.5, [], {}, ["digits"])
NO_NUMBERS = (None, True, "3", "nan", [3], {}, float("nan"), float("inf"), -1, 1e300, 10**30)
NO_LISTS = (None, True, 3, "abc", {}, {"a": 1})
WHOLE = ("size", "train", "pool", "test", "epochs", "batch_size", "tuning")
REAL = ("ratio", "first", "lr", "fine_tune", "imbalance", "noise")
TEXTS = ("data", "network", "scorer", "trainer", "precision", "augment", "baseline")
LISTS = ("budgets", "seeds", "arms", "references")


def hostile() -> list[tuple[str, Any]]:
    """Return (field, value) pairs, none of which a plan may have."""
    rows: list[tuple[str, Any]] = [("name", value) for value in (*NO_NAMES, *NO_TEXTS)]
    rows += [(field, value) for field in (*TEXTS, "note") for value in NO_TEXTS]
    rows += [(field, value) for field in TEXTS for value in PATHS]
    rows += [("data", value) for value in ("digit", ".npz", "../../victim.npz", "folder:", "folder:../../victim")]
    rows += [("network", value) for value in ("resnet9", "resnet8/0", "resnet8/", "mlp/-1", "mlp/100", "torchvision:")]
    rows += [("network", value) for value in ("resnet8/32", "torchvision:../x", "os:system")]  # the first: no channels
    rows += [
        ("network", value) for value in ("family:", "family:16-2r3-2r3-2r3", "family:32-2r3-2r3s-2r3s", "family:../x")
    ]
    rows += [("arms", ["subselnet"]), ("arms", ["random", "subselnet:none"])]  # the plan's network is not of the family
    rows += [(field, value) for field in (*WHOLE, *REAL) for value in NO_NUMBERS]
    rows += [(field, 1.5) for field in WHOLE] + [("ratio", 1), ("ratio", 1.0), ("first", 0), ("first", 40.5)]
    rows += [(field, value) for field in LISTS for value in NO_LISTS]
    rows += [(field, []) for field in LISTS[:3]]
    rows += [("seeds", [0, value]) for value in (*NO_NUMBERS, *PATHS, "../../../../evil", 0, 0.5, 2**63)]
    rows += [("budgets", [60, value]) for value in (*NO_NUMBERS, 60, 50, 60.5, "../../evil")]
    rows += [(field, [value]) for field in ("arms", "references") for value in (*NO_TEXTS, *PATHS, "random " * 40)]
    rows += [("arms", ["random", "random"]), ("first", 1e-6), ("budgets", [10_000]), ("pool", 50)]
    return [*rows, *(("arms", [arm]) for arm in NO_ARMS)]


NO_ARMS = (
    *("best", "random:../x", "svp", "svp:../../victim", "svp:resnet9", "prunefuse-v2:0", "prunefuse-v2:1e9"),
    *(f"prunefuse-v1 {key}" for key in ("ratio", "ratio=", "ratio=x", "ratio=nan", "ratio=1", "ratio=-1", "speed=3")),
    *(f"prunefuse-v1 epochs={value}" for value in ("1.5", "-1", "1e9", "9999999999", "../x")),
    *(f"prunefuse-v1 {key}=nan" for key in ("distill", "falls_to", "fine_tune", "warm_share", "fraction", "cross")),
    *(f"prunefuse-v1 {key}=../x" for key in ("importance", "scorer", "layout", "start", "warm", "cross", "subset")),
    *("prunefuse-v1 checkpoint=../../victim.pt", "random target=../x", "prunefuse-v1 ratio=0.5 ratio=0.6"),
    *("prunefuse-v1 distill=2", "prunefuse-v1 fraction=0", "prunefuse-v1 falls_to=0.9", "prunefuse-v1 progressive=99"),
    *("dense-reinit subset=prunefuse-v1", "random subset=random+subset=random", "prunefuse-v1 target=vgg"),
)
SMALL = {"network": "mlp", "epochs": 1, "pool": 200, "budgets": [60], "seeds": [0], "arms": ["random", "prunefuse-v1"]}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """Return a function that runs a plan, sees that nothing is written, and returns the words."""
    (tmp_path / "work" / "plans").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "report.md").write_text("mine")
    monkeypatch.chdir(tmp_path / "work" / "plans")

    def refused(content: str | bytes, *options: str) -> str:
        Path("mine.json").write_bytes(content.encode() if isinstance(content, str) else content)
        before = tree(tmp_path)
        with pytest.raises(ValueError) as error:
            run.main(["mine.json", "--out", str(tmp_path / "work" / "out"), "--device", "cpu", *options])
        assert tree(tmp_path) == before
        return str(error.value)

    return refused


@pytest.mark.parametrize(("field", "value"), hostile())
def test_a_value_that_no_plan_may_have(field, value, refuse):
    words = refuse(json.dumps({**SMALL, field: value}))
    assert any(word in words for word in (f"{field}=", f"{field}[", "arm ", "network ", "labels", "there is no")), words


def test_there_are_hundreds_of_them():
    assert len(hostile()) > 300


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"epoch": 3}', "a plan has no epoch; did you mean 'epochs'?"),
        ('{"Seeds": [0]}', "a plan has no Seeds; did you mean 'seeds'?"),
        ('{"parsed": []}', "a plan has no parsed; it has name, data"),
        ('{"../../victim": 3}', "a plan has no ../../victim"),
        ('{"seeds": [0], "seeds": [1]}', "'seeds' stands there twice"),
        ('{"like": "digit"}', "like='digit'; there are digits, .*; did you mean 'digits'?"),
        ('{"like": ["digits"]}', "like=.* there are digits"),
        ("[]", "an object with fields of a plan is needed"),
        ("3", "an object with fields of a plan is needed"),
        ("null", "an object with fields of a plan is needed"),
        ("", "is no plan: Expecting value"),
        ('{"epochs": 3', "is no plan: "),
        ("[" * 100_000, "is no plan: "),
        (b"\xff\xfe{}", "is no plan: "),
        ('{"epochs": %s}' % ("9" * 5000), "is no plan: "),
        ('{"like": "digits", "arms": ["randon"]}', "did you mean 'random'?"),
        ('{"like": "digits", "arms": ["random rati=0.3"]}', "did you mean 'ratio'?"),
        ('{"like": "digits", "network": "resnet21"}', "did you mean 'resnet"),
        ('{"like": "digits", "scorer": "margins"}', "did you mean 'margin'?"),
        ('{"like": "digits", "data": "mnits"}', "did you mean 'mnist'?"),
    ],
)
def test_a_file_that_is_no_plan(content, words, refuse):
    assert re.search(words.replace("?", r"\?"), refuse(content), flags=re.DOTALL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "-1"], r"seeds\[0\]=-1"),
        (["--lr", "nan"], "lr=nan"),
        (["--budgets", "60", "nan"], r"budgets\[1\]=nan"),
        (
            ["--budgets", "60", "1000"],
            r"are \[40, 60, 1000\] labels.* from 1 to at most 180, of 200",
        ),
        (["--arms", "random ../x"], "'../x' is not a setting"),
        (["--baseline", "../x"], "'../x' is not one of random"),
        (["--jobs", "2", "--scorer", "../x"], "unknown scorer '../x'"),
        (["--report", "--network", "../x"], "network '../x': there are mlp"),
    ],
)
def test_what_is_given_on_the_command_line_is_checked_alike(options, words, refuse):
    assert re.search(words, refuse(json.dumps(SMALL), *options))


@pytest.mark.parametrize("options", [["--jobs", "0"], ["--threads", "-1"], ["--jobs", "two"], ["--epochs", "0.5"]])
def test_options_that_are_no_whole_numbers(options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main(["digits", "--out", str(tmp_path / "out"), *options])
    assert options[0] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("plans", "words"),
    [
        (["digits", "fashion-mnist"], "plans digits and fashion-mnist are of different set-ups: data is fashion-mnist"),
        (["digits", "digits"], "plan digits is asked for twice"),
        (["digits", "nothing.json"], "plan 'nothing.json' cannot be read"),
        (["digits", "digit"], "did you mean 'digits'"),
    ],
)
def test_of_several_plans_none_is_begun_if_one_cannot_be_run(plans, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run.main([*plans, "--out", str(tmp_path / "out"), "--root", "nowhere"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[]", "3", "{", '{"epochs": 99}', ""])
def test_a_folder_whose_set_up_is_damaged_or_another_is_left_alone(content, tmp_path, refuse):
    out = tmp_path / "work" / "out"
    out.mkdir()
    (out / "plan.json").write_text(content)
    (out / ".plan.json.5").write_text("what another process may be writing")
    words = refuse(json.dumps(SMALL))
    assert ("holds another plan" if "epochs" in content else "plan.json is damaged") in words


def test_every_ready_plan_passes_the_door():
    for names in [*([name] for name in PLANS), *GROUPS.values()]:
        assert [plan.name for plan in run.asked(run.arguments([*names, "--report"]))] == names


@pytest.mark.parametrize("name", ["mine", "my plan", "Überblick-2", "a.b_c", "_", "0", "x" * 100])
def test_names_of_folders_that_are_fine(name, tmp_path):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(SMALL))
    assert read_plan(str(path), PLANS).name == name


def test_values_are_kept_as_they_are_given():
    plan = Plan("p", first=0.25, budgets=[0.5, 100], seeds=[3, 2**63 - 1])
    assert (plan.first, plan.budgets, plan.seeds) == (0.25, (0.5, 100), (3, 2**63 - 1))
    assert plan.setup()["budgets"] == [0.5, 100]
