"""Every plot shows the numbers it was given, on the Axes it was given, and says what it cannot draw."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from fakes import blobs, mlp

from prunefuse_al import CostLedger, PrunedProxySelector, Selection, TorchTrainer, advise, plots, prune
from prunefuse_al.advisor import Advice, LoopPlan
from prunefuse_al.costs.ledger import CostRow
from prunefuse_al.errors import InputError, MissingDependencyError

matplotlib = pytest.importorskip("matplotlib")
figure = pytest.importorskip("matplotlib.figure")
matplotlib.use("Agg")
X, Y = blobs(40)


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture(scope="module")
def advice() -> Advice:
    trainer = TorchTrainer(2, 16, progress=False, device="cpu")
    options: dict[str, Any] = {"labelled": (X, Y), "proxy": mlp(6, 4, 3), "trial_epochs": 1, "trainer": trainer}
    plan = LoopPlan(pool=100, rounds=3, initial=10, k=10)
    return advise(mlp(6, 32, 3), X[:2], 0.6, ratios=(0.25, 0.5), plan=plan, repeats=1, **options)


def new_axes() -> Any:
    return figure.Figure().subplots()


def lines(ax: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_advice(advice: Advice) -> None:
    given = new_axes()
    assert advice.plot(given) is given
    drawn = lines(given)
    assert drawn["total, MACs"] == [row.macs.total_share for row in advice.rows]
    assert drawn["choosing, seconds"] == [row.seconds.selection_share for row in advice.rows]
    assert drawn["Spearman with dense"] == [row.agreement.spearman for row in advice.rows]
    assert drawn["SvP total, MACs"] == [advice.svp.macs.total_share] * 2
    assert drawn["the dense loop"] == [1, 1]
    assert given.get_title() == "best: p=0.5 (cost <= 0.6, total <= 1)"
    given.figure.canvas.draw()


def test_new_axes_are_made_when_none_are_given(advice: Advice) -> None:
    assert isinstance(advice.plot(), figure.Axes)


def test_learning_curve() -> None:
    ax = plots.plot_learning_curve([10, 20], {"ours": [[0.5, 0.7], [0.7, 0.9]], "random": [0.4, 0.5]}, new_axes())
    assert lines(ax)["ours"] == pytest.approx([0.6, 0.8])
    assert lines(ax)["random"] == [0.4, 0.5]
    (band,) = ax.collections  # one arm has several seeds
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.8 + np.std([0.7, 0.9], ddof=1))
    with pytest.raises(InputError, match=r"'ours' has shape \[3\] for 2 budgets"):
        plots.plot_learning_curve([10, 20], {"ours": [1, 2, 3]})


def test_costs() -> None:
    def ledger(train: int, score: int) -> CostLedger:
        rows = [("train_proxy", train), ("score", score), ("score", score)]
        return CostLedger(CostRow(1, name, "proxy", 0.5, 1, work, 0, 0, 1, 0) for name, work in rows)

    ax = plots.plot_costs({"ours": ledger(6, 2), "dense": ledger(20, 10)}, new_axes())
    assert legend(ax) == ["train_proxy", "score"]
    assert [bar.get_height() for bar in ax.patches] == [6, 20, 4, 20]
    assert [bar.get_y() for bar in ax.patches] == [0, 0, 6, 20]
    ax = plots.plot_costs(ledger(6, 2), new_axes(), measure="seconds")
    assert [bar.get_height() for bar in ax.patches] == [0.5, 1.0]
    with pytest.raises(InputError, match="no rows"):
        plots.plot_costs(CostLedger())
    with pytest.raises(InputError, match="one of 'macs', 'seconds'"):
        plots.plot_costs(ledger(1, 1), measure="hours")


def test_pareto() -> None:
    arms = {"ours": ([1, 2, 4], [0.5, 0.7, 0.6]), "dense": ([2, 8], [0.4, 0.9])}
    ax = plots.plot_pareto(arms, new_axes())
    assert lines(ax)["ours"] == [0.5, 0.7, 0.6]
    assert lines(ax)["front"] == [0.5, 0.7, 0.9]
    with pytest.raises(InputError, match=r"'ours' has \[2\] costs and \[3\] accuracies"):
        plots.plot_pareto({"ours": ([1, 2], [1, 2, 3])})


def test_no_point_of_the_front_is_beaten() -> None:
    points = np.random.default_rng(0).integers(0, 6, (200, 2)).astype(float)
    front = plots.pareto_front(points)

    def beaten(point: Any) -> bool:
        return any(c <= point[0] and a >= point[1] and (c, a) != tuple(point) for c, a in points)

    assert sorted(map(tuple, front)) == sorted({tuple(point) for point in points if not beaten(point)})


def test_widths() -> None:
    proxy = prune(mlp(6, 32, 16, 3), X[:2], 0.5)
    ax = plots.plot_widths(proxy, new_axes())
    assert [bar.get_height() for bar in ax.patches] == [32, 16, 3, 16, 8, 3]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.weight", "2.weight", "4.weight"]
    assert lines(plots.plot_widths(proxy.report(), new_axes())) == {}


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4), (3, 5, 4), (5, 4, 3)])
def test_selection(shape: tuple[int, ...]) -> None:
    pool = torch.zeros(30, *shape)
    pool[17] = torch.linspace(0, 255, pool[17].numel()).reshape(shape)
    chosen = Selection(torch.tensor([17, 3, 8]), torch.tensor([0.9, 0.25, 0.125]))
    ax = plots.plot_selection(pool, chosen, new_axes(), columns=2)
    assert [text.get_text() for text in ax.texts] == ["0.9 #17", "0.25 #3", "0.125 #8"]
    sheet = ax.get_images()[0].get_array()
    first = sheet[:5, :4]
    assert (first.min(), first.max()) == (0, 1)
    assert sheet[:5, 5:9].max() == 0
    assert ax.texts[2].get_position()[0] == 0  # the third begins the second row


def test_selection_of_a_run_and_what_is_no_picture() -> None:
    trainer = TorchTrainer(1, progress=False, device="cpu")
    chosen = PrunedProxySelector(mlp(6, 16, 3), trainer=trainer, random_state=0).fit(X, Y).select(X, 4)
    with pytest.raises(InputError, match=r"shape \[6\], which is no picture"):
        plots.plot_selection(X, chosen)
    with pytest.raises(InputError, match="columns=0"):
        plots.plot_selection(X, chosen, columns=0)
    without_scores = Selection(chosen.indices)
    ax = plots.plot_selection(X.reshape(-1, 2, 3), without_scores, new_axes(), most=3)
    assert [text.get_text() for text in ax.texts] == [f"#{int(row)}" for row in chosen.indices[:3]]


class _Hide:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_matplotlib_there_is_a_sentence_with_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Hide(), *sys.meta_path])
    with pytest.raises(MissingDependencyError, match="drawing needs matplotlib, which is not installed") as caught:
        plots.plot_learning_curve([1], {"a": [0.5]})
    assert 'Run: pip install "prunefuse_al[plots]"' in str(caught.value)
    assert isinstance(caught.value, ModuleNotFoundError)
