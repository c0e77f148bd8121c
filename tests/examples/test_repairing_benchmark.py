"""The benchmark of repairing runs from the command line, and its table is that of the numbers it found."""

from __future__ import annotations

from pathlib import Path

from fakes import run_script

from examples.benchmarks import repairing

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "repairing.py"
WAYS = [
    "dense",
    "as cut",
    "BatchNorm re-estimated",
    "repaired, one pass",
    "repaired",
    "repaired, 1 epochs of imitation",
]


def test_every_way_has_its_line(tmp_path: Path) -> None:
    options = "--unlabelled 60 --rows 40 --labels 60 --test 60 --epochs 1 --training 1 --seeds 2 --threads 1"
    printed = run_script(SCRIPT, tmp_path, *options.split()).splitlines()
    assert [line[:36].strip() for line in printed[-6:]] == WAYS
    assert printed[-6].split()[4] == "1.00"
    assert sum(line.startswith("seed 1: ") for line in printed) == len(WAYS)


def test_a_small_bert_is_put_to_mails(tmp_path: Path) -> None:
    for kind, word in (("spam-1", "money"), ("easy-ham-1", "meeting")):
        (tmp_path / kind).mkdir()
        for number in range(60):
            mail = f"Subject: about {word}\n\nthis is mail {number} and it speaks of {word} and of nothing else"
            (tmp_path / kind / f"{number}.txt").write_text(mail)
    options = "--network bert --unlabelled 40 --rows 30 --labels 30 --test 30 --epochs 1 --training 1 --threads 1"
    printed = run_script(SCRIPT, tmp_path, *options.split(), "--root", str(tmp_path)).splitlines()
    ways = [way for way in WAYS if "BatchNorm" not in way]  # it has none
    assert [line[:36].strip() for line in printed[-5:]] == ways
    assert printed[-1].split()[-2] == "1.00"  # of the dense network's: two words tell these mails apart


def test_choices_are_compared_at_equal_cost(tmp_path: Path) -> None:
    options = "--unlabelled 60 --rows 40 --labels 60 --test 60 --training 1 --threads 1 --shares 0.6"
    chosen = ["l2/all/local", "activation/interiors/global"]
    printed = run_script(SCRIPT, tmp_path, *options.split(), "--choices", *chosen).splitlines()
    assert [line[:36].strip() for line in printed[-3:]] == ["dense", *(f"0.6 {choice}" for choice in chosen)]
    shares = [float(line.rpartition(" ")[2]) for line in printed if "share of MACs" in line]
    assert len(shares) == 2
    assert all(0.5 < share <= 0.6 for share in shares)


def test_the_table_has_means_and_shares() -> None:
    lines = repairing.table({"dense": [(0.8, 0.0), (0.6, 0.0)], "repaired": [(0.4, 1.0), (0.3, 3.0)]}).splitlines()
    assert lines[1].split() == ["dense", "70.0", "±", "14.1", "1.00", "0"]
    assert lines[2].split() == ["repaired", "35.0", "±", "7.1", "0.50", "2"]
