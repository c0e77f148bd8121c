"""The harness of the paper's protocol: plans, records that survive a kill, reports from records alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "paper"))

import compare
import details
import run
from plan import Plan, parse_arm, read_plan
from plans import PLANS
from records import Store

PAPER = Path(__file__).parents[2] / "examples" / "paper"
ARMS = ("random", "dense-reinit", "svp:mlp/2", "prunefuse-v1", "prunefuse-v2:2")
TINY = ["digits", "--network", "mlp", "--epochs", "2", "--test", "150", "--pool", "400", "--budgets", "60", "80"]
TINY += ["--seeds", "0", "1", "--lr", "0.05", "--device", "cpu"]


def records(folder: Path) -> list[bytes]:
    path = folder / "records.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper") / "out"
    run.main([*TINY, "--out", str(folder), "--arms", *ARMS])
    return folder


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(PAPER / "run.py"), *TINY, "--out", str(folder), "--arms", *ARMS, *options]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PAPER.parents[1])}


def test_every_arm_seed_and_round_is_written_once_and_nothing_else(done):
    cells = [(arm, seed, number) for arm in sorted(ARMS) for seed in (0, 1) for number in range(3)]
    for name in ("records.jsonl", "timings.jsonl"):
        entries = [json.loads(line) for line in (done / name).read_text().splitlines()]
        assert [(entry["arm"], entry["seed"], entry["round"]) for entry in entries] == cells
    files = {"plan.json", "records.jsonl", "timings.jsonl", ".lock", "digits"}
    assert {path.name for path in done.iterdir()} == files


def test_killed_at_any_moment_it_ends_in_the_same_bytes(done, tmp_path):
    folder = tmp_path / "killed"
    for wanted in (1, 8, 17):  # records when it is killed, not waiting for one to be whole
        process = subprocess.Popen(command(folder), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(records(folder)) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert wanted <= len(records(folder)) < 30
    for path in list(folder.rglob("*.safetensors"))[:1]:
        assert path.stat().st_size  # there was something to go on from
    subprocess.run(command(folder), env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    assert records(folder) == records(done)
    assert {path.name for path in folder.iterdir()} == {path.name for path in done.iterdir()}


def test_several_processes_do_what_one_does(done, tmp_path):
    folder = tmp_path / "many"
    finished = subprocess.run(
        command(folder, "--jobs", "3"), env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    assert records(folder) == records(done)
    said = [line for line in finished.stdout.splitlines() if " rounds in " in line]
    assert len(said) == len(set(line.split(":")[0] + line.split(",")[1] for line in said)) == 10


def test_a_finished_plan_does_nothing_again(done, capsys):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in done.glob("*.json*")}
    run.main([*TINY, "--out", str(done), "--arms", *ARMS, "--root", "nowhere"])
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in done.glob("*.json*")} == before
    assert len(before) == 3
    assert " rounds in " not in capsys.readouterr().out


def test_a_folder_takes_no_other_plan_but_more_seeds(done):
    with pytest.raises(ValueError, match=r"holds another plan: epochs was 2, is 3\. Give another --out"):
        run.main([*TINY, "--epochs", "3", "--out", str(done), "--arms", *ARMS])
    assert json.loads((done / "plan.json").read_text())["epochs"] == 2


def test_plans_of_one_setup_share_records(done, capsys):
    arms = ("dense-reinit", "prunefuse-v1")
    run.main([*TINY, "--out", str(done), "--arms", *arms])
    assert " rounds in " not in capsys.readouterr().out
    names = run.asked(run.arguments(["fashion-mnist-questions"]))
    assert len(names) == 9
    assert len({json.dumps(plan.setup()) for plan in names}) == 1


def test_a_round_is_never_overwritten(done):
    store, arm, before = Store(done), parse_arm(ARMS[0]), records(done)
    with pytest.raises(FileExistsError, match=r"has round 0 of random, seed 0, already: two processes have done"):
        store.write(arm, 0, 0, store.record(arm, 0, 0), {})
    assert records(done) == before


def test_arms_of_a_seed_start_alike_and_never_label_twice(done):
    plan = read_plan("digits", PLANS)
    store, firsts = Store(done), set()
    for arm in map(parse_arm, ARMS):
        rounds = [store.record(arm, 0, r) for r in range(3)]
        picked = [row for record in rounds for row in record["picked"]]
        assert [record["labels"] for record in rounds] == [plan.first, 60, 80]
        assert len(set(picked)) == len(picked) == 40
        firsts.add(round(rounds[0]["costs"][-1]["parameters"]))
    dense, random = (store.record(parse_arm(arm), 0, 0)["accuracy"] for arm in ("dense-reinit", "random"))
    assert dense == random  # the same labels, weights and batches


def test_the_report_says_what_the_records_say(done):
    (done / "digits" / "report.md").unlink()
    run.main([*TINY, "--out", str(done), "--arms", *ARMS, "--report", "--root", "nowhere"])
    text, more = ((done / "digits" / name).read_text() for name in ("report.md", "details.md"))
    values, base = (
        [Store(done).record(parse_arm(arm), seed, 2)["accuracy"] for seed in (0, 1)]
        for arm in ("prunefuse-v1", "dense-reinit")
    )
    assert f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f} |" in text
    assert "n.s." in more
    assert f"{100 * np.mean(np.subtract(values, base)):+.1f} ± " in more
    assert "Minus `dense-reinit`" in more
    assert "Minus `random`" not in more
    assert "## Who beats whom" in text
    assert "## Stopping without labels" in more
    for name in ("accuracy", "pareto", "costs", "curves"):
        assert (done / "digits" / f"{name}.png").stat().st_size > 5000
        assert (done / "digits" / f"{name}.pdf").exists()


def test_arms_are_compared_with_the_references_too_and_over_all_budgets(done):
    run.main([*TINY, "--out", str(done), "--arms", *ARMS, "--report", "--references", "random", "svp:none"])
    text = (done / "digits" / "details.md").read_text()
    head, _, *rows = text.split("Minus `random`:")[1].strip().split("\n\n")[0].splitlines()
    assert head == "| arm | 60 | 80 | all of these |"
    assert [row.split(" | ")[0] for row in rows] == [f"| {arm}" for arm in ARMS if arm != "random"]
    store = Store(done)
    accuracy = [
        [[store.record(parse_arm(arm), seed, r)["accuracy"] for r in (1, 2)] for seed in (0, 1)]
        for arm in ("prunefuse-v1", "random")
    ]
    d = compare.paired(*np.mean(accuracy, axis=2))
    row = next(row for row in rows if row.startswith("| prunefuse-v1 |"))
    assert row.split(" | ")[-1].startswith(f"{100 * d.mean:+.1f} ± {100 * d.half:.1f}")


def test_arms_are_compared_with_the_baseline_of_the_same_settings():
    settings = ("", " scorer=margin", " scorer=badge")
    arms = [f"{arm}{of}" for of in settings for arm in ("dense-reinit", "prunefuse-v1")]
    alone = ("random", "prunefuse-v1 scorer=entropy", "svp:mlp", "svp:mlp scorer=badge")
    plan = Plan("p", seeds=(0, 1, 2), arms=(*arms, *alone), budgets=(80, 120))
    rng = np.random.default_rng(0)
    accuracy = {(arm.name, s, r): rng.random() for arm in plan.parsed for s in plan.seeds for r in range(3)}
    cells = {cell: ({"accuracy": value, "labels": 40 * (1 + cell[2])}, None) for cell, value in accuracy.items()}
    results = compare.Results(plan, cells)
    _, _, *rows = details.like_for_like(results).split("\n\n")[1].splitlines()
    proxies = [f"prunefuse-v1{of}" for of in settings]
    titles = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert titles == [*proxies, "prunefuse-v1, mean of these 3", "svp:mlp", "svp:mlp scorer=badge"]
    ours, theirs = (
        np.array([[[accuracy[f"{arm}{of}", s, r] for r in (1, 2)] for s in plan.seeds] for of in settings])
        for arm in ("prunefuse-v1", "dense-reinit")
    )
    for row, of in zip(rows, ([0], [1], [2], [0, 1, 2]), strict=False):
        d = compare.paired(ours[of].mean((0, 2)), theirs[of].mean((0, 2)))
        assert row.split(" | ")[-1].startswith(f"{100 * d.mean:+.1f} ± {100 * d.half:.1f}")
    assert details.like_for_like(compare.Results(replace(plan, arms=arms[:2]), cells)) == ""


def test_costs_count_what_leads_to_a_budget(done):
    (plan,) = run.asked(run.arguments([*TINY, "--arms", *ARMS]))
    results = compare.Results.read(plan, Store(done))
    dense, v1, random = (plan.arm(name) for name in ("dense-reinit", "prunefuse-v1", "random"))
    rows = [results.rows("prunefuse-v1", 0, r) for r in range(3)]
    macs = [{row["stage"]: row["forward_macs"] + row["backward_macs"] for row in part} for part in rows]
    choosing, target = results.cost(v1, 1, "macs", [0])
    assert choosing == sum(macs[r]["train_proxy"] for r in (0, 1)) + macs[0]["score"]
    assert target == macs[1]["train_target"]
    assert results.cost(random, 2, "macs")[0] == 0
    assert results.cost(random, 0, "macs")[1] == results.cost(dense, 0, "macs")[0]
    assert results.cost(dense, 2, "macs")[1] == 0


def test_seconds_are_compared_on_one_kind_of_device_alone(done, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(done, folder)
    shares = []
    for device in (None, "another GPU"):
        timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
        for timing in timings if device else ():
            timing["device"] = device if timing["arm"] == "prunefuse-v1" else timing["device"]
        (folder / "timings.jsonl").write_text("".join(json.dumps(timing) + "\n" for timing in timings))
        run.main([*TINY, "--out", str(folder), "--arms", *ARMS, "--report"])
        text = (folder / "digits" / "report.md").read_text()
        costs = text[text.index("## Costs") :].splitlines()
        row = next(line for line in costs if line.startswith("| prunefuse-v1 |"))
        shares.append([cell.strip() for cell in row.split("|")[5:8:2]])
    assert "-" not in shares[0]
    assert shares[1] == ["-", "-"]


def test_labels_of_another_arm(tmp_path):
    arms = ("prunefuse-v1", "dense-reinit subset=prunefuse-v1", "random subset=prunefuse-v1 target=mlp/2")
    run.main([*TINY, "--seeds", "0", "--out", str(tmp_path), "--arms", *arms, "--baseline", "prunefuse-v1"])
    store = Store(tmp_path)
    taken = [[store.record(parse_arm(arm), 0, r)["picked"] for r in range(2)] for arm in arms]
    assert taken[0] == taken[1] == taken[2]
    idle = store.record(parse_arm(arms[2]), 0, 2)
    assert {row["stage"] for row in idle["costs"]} == {"train_target"}
    assert idle["proxy_accuracy"] is None


def test_pictures_in_folders(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("torchvision")
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("val", 5)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                shape = (36, 40, 3) if number % 2 else (40, 36, 3)
                picture = image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
                picture.save(folder / f"{number}.png")
    plan = {"like": "imagenet-paper", "data": f"folder:{tmp_path / 'pictures'}", "size": 32, "network": "resnet8"}
    plan |= {"epochs": 2, "batch_size": 8, "lr": 0.05, "first": 0.2, "budgets": [0.4], "seeds": [0]}
    (tmp_path / "mine.json").write_text(json.dumps({**plan, "arms": ["dense-reinit", "prunefuse-v1"]}))
    run.main([str(tmp_path / "mine.json"), "--out", str(tmp_path / "out"), "--device", "cpu"])
    record = Store(tmp_path / "out").record(parse_arm("prunefuse-v1"), 0, 1)
    assert (record["labels"], len(record["curve"])) == (24, 2)


def test_from_a_checkpoint(tmp_path, capsys):
    import pretrain
    import torch

    file = str(tmp_path / "start.pt")
    pretrain.main(["digits", "--data", "digits", "--epochs", "3", "--rows", "500", "--out", file])
    arms = ["dense-reinit", f"prunefuse-v1 checkpoint={file}"]
    small = ["--epochs", "1", "--budgets", "60", "--seeds", "0", "--device", "cpu", "--test", "150"]
    run.main(["digits", *small, "--out", str(tmp_path / "out"), "--arms", *arms])
    (plan,) = run.asked(run.arguments(["digits", "--arms", *arms]))
    weights = run.source(plan, "").network(plan.network, 0, file).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in torch.load(file, weights_only=True).items())
    scratch, started = (Store(tmp_path / "out").record(parse_arm(arm), 0, 1) for arm in arms)
    assert "repair" in {row["stage"] for row in Store(tmp_path / "out").record(parse_arm(arms[1]), 0, 0)["costs"]}
    assert started["accuracy"] > scratch["accuracy"]
    assert "500 pictures of digits" in capsys.readouterr().out


def test_settings_of_arms_reach_the_selector(tmp_path):
    arm = "prunefuse-v1 ratio=0.25 start=scratch distill=0.3 stop=2 scorer=margin importance=random"
    run.main([*TINY, "--seeds", "0", "--out", str(tmp_path), "--arms", "dense-reinit", arm])
    record = Store(tmp_path).record(parse_arm(arm), 0, 2)
    rows = {row["stage"]: row for row in record["costs"]}
    assert "fuse" not in rows
    dense = Store(tmp_path).record(parse_arm("dense-reinit"), 0, 2)["costs"][0]["parameters"]
    assert rows["train_target"]["parameters"] == dense
    assert 0.5 < rows["train_proxy"]["parameters"] / dense < 0.75
    # the teacher's forward passes are paid
    assert rows["train_target"]["forward_macs"] > rows["train_target"]["samples"] * dense * 0.9


@pytest.mark.filterwarnings("error::prunefuse_al.errors.FallbackWarning")
def test_scorers_that_read_the_training_see_it_in_every_arm(tmp_path):
    asked = [arm for arm in PLANS["fashion-mnist-scorers"].arms if arm.endswith(("=forgetting", "=ccs", "=d2"))]
    arms = [arm.replace("resnet8/2", "mlp/2") for arm in asked]
    assert len(arms) == 9
    run.main([*TINY, "--seeds", "0", "--out", str(tmp_path), "--arms", *arms, "--baseline", arms[0]])
    costs = [row for line in records(tmp_path) for row in json.loads(line)["costs"]]
    assert costs
    assert not [row for row in costs if row["stage"] == "retrain_proxy"]  # it was watched as it happened


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "'best' is not one of random, dense-reinit"),
        ("svp", "name the network that chooses, as in svp:resnet8"),
        ("prunefuse-v2", "name the rounds between two syncs"),
        ("prunefuse-v1 speed=3", "'speed=3' is not a setting"),
        ("prunefuse-v1 start=warm", "start=warm; choose fused or scratch"),
        ("prunefuse-v1 target=vgg", "add start=scratch"),
        ("random:3", "takes nothing behind a colon"),
        ("subselnet:smalest", "'smalest' is not one of smallest, .*; did you mean 'smallest'"),
        ("subselnet subset=random", "takes its own subset"),
        ("subselnet scorer=margin", "takes its own subset"),
    ],
)
def test_arms_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        parse_arm(text)


def test_plans_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="labels have to grow"):
        Plan("p", first=40, budgets=(80, 60))
    with pytest.raises(ValueError, match="takes the labels of 'random', which is not in the plan"):
        Plan("p", arms=("dense-reinit subset=random",))
    with pytest.raises(ValueError, match="stands there twice"):
        Plan("p", arms=("random", "random"))
    with pytest.raises(ValueError, match=r"there are digits, .*or the path of a \.json file"):
        read_plan("nothing", PLANS)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"like": "digits", "epochs": 3}))
    assert (read_plan(str(path), PLANS).name, read_plan(str(path), PLANS).epochs) == ("mine", 3)
    path.write_text(json.dumps({"speed": 3}))
    with pytest.raises(ValueError, match="a plan has no speed"):
        read_plan(str(path), PLANS)


def test_every_ready_plan_names_networks_that_there_are():
    from networks import NETWORKS

    for plan in PLANS.values():
        names = [
            plan.network,
            *(a.argument for a in plan.parsed if a.method == "svp"),
            *(a.target for a in plan.parsed),
        ]
        assert all(
            n.split("/")[0] in NETWORKS or n.startswith(("torchvision:", "pretrained:", "family:")) for n in names if n
        ), plan.name


def test_pictures_come_to_networks_of_imagenet_in_three_colours_and_their_size():
    import torch
    from data import IMAGENET, as_imagenet

    grey = torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)
    augmented, plain = as_imagenet(16, flips=True)
    assert torch.allclose(plain(grey), IMAGENET(torch.ones(2, 3, 16, 16)))
    with torch.random.fork_rng(devices=[]):
        assert augmented(grey).shape == (2, 3, 16, 16)


def test_arms_of_a_pretrained_start(tmp_path, monkeypatch):
    import pretrain

    monkeypatch.chdir(tmp_path)  # a short name stands in the pictures
    file = "s.pt"
    pretrain.main(["digits", "--data", "digits", "--epochs", "1", "--rows", "200", "--out", file])
    arms = [
        *("dense-reinit", "random rate=0.5", "probe", "prunefuse-v1 imitate=1", "prunefuse-v1 repair=no"),
        "random subset=probe",
    ]
    arms = [f"{arm} checkpoint={file}" if "subset" not in arm and "dense" not in arm else arm for arm in arms]
    arms[-1] = f"random checkpoint={file} subset=probe+checkpoint={file}"
    small = ["--epochs", "1", "--budgets", "60", "--seeds", "0", "--device", "cpu", "--test", "150"]
    run.main(["digits", *small, "--trainer", "adamw", "--lr", "0.01", "--out", str(tmp_path / "out"), "--arms", *arms])
    costs = [Store(tmp_path / "out").record(parse_arm(arm), 0, 0)["costs"] for arm in arms]
    _, _, probe, repaired, bare, borrowed = ({row["stage"] for row in rows} for rows in costs)
    assert "features" in probe
    assert "repair" not in probe
    assert {"prune", "repair"} <= repaired
    assert "repair" not in bare
    assert "features" not in borrowed


def test_the_papers_plan_is_the_papers():
    plan = PLANS["cifar10-paper"]
    assert (plan.network, plan.first, plan.budgets) == ("resnet56", 1000, (5000, 10_000, 15_000, 20_000, 25_000))
    assert PLANS["imagenet-paper"].labels(1_000_000) == [20_000, 100_000, 200_000, 300_000, 400_000, 500_000]


def test_questions_on_the_papers_set_up_count_its_epochs():
    assert "prunefuse-v1 progressive=20" in PLANS["cifar10-paper-pruning"].arms
    assert "prunefuse-v1 epochs=60" in PLANS["cifar10-paper-cheaper"].arms
    assert "prunefuse-v1 target_epochs=90" in PLANS["cifar10-paper-stopping"].arms


def test_paired_differences_are_those_of_a_t_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.5, 0.1, 5), rng.normal(0.4, 0.1, 5)
    d = compare.paired(ours, theirs)
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    np.testing.assert_allclose([d.mean - d.half, d.mean + d.half], interval)
    assert d.significant == (stats.ttest_rel(ours, theirs).pvalue < 0.05)
    assert not compare.paired([0.5], [0.4]).significant
