"""Scorers of independent labels agree with their oracles, and no scorer takes logits of the other kind."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ml_badge as badge_oracle
from oracles import mmc as mmc_oracle

import prunefuse_al.scorers as scorers
from prunefuse_al.errors import InputError
from prunefuse_al.scorers import MMC, SCORERS, ClassBalanced, MLMargin, TwoStage, get_scorer, ml_badge, ml_bald, mmc
from prunefuse_al.scorers._select import one_against_rest
from prunefuse_al.testing.contracts import example_signals
from prunefuse_al.types import PointScorer, Signals, as_rng

POINT = ["ml_min_margin", "ml_margin", "ml_entropy"]
Z = torch.tensor([(2, -1, 0.2), (0.5, -0.5, 3), (4, -4, 4)], dtype=torch.float64)
LABELLED = torch.tensor([[1, 0, 1], [0, 1, 0]])
values = st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.0, 1.0, -1.0, -100.0, 100.0]))
rows = st.integers(1, 5).flatmap(
    lambda c: st.lists(st.lists(values, min_size=c, max_size=c), min_size=1, max_size=8),
)


def oracle(name, *args):
    return torch.tensor(importlib.import_module(f"oracles.{name}").score(*args), dtype=torch.float64)


def close(found, want):
    torch.testing.assert_close(torch.as_tensor(found).double(), torch.as_tensor(want).double(), rtol=1e-5, atol=1e-6)


def test_the_worked_example():
    """Figures worked out by hand, to six decimals."""
    close(1 - scorers.ml_min_margin(Z), [0.099668, 0.244919, 0.964028])
    close(1 - scorers.ml_margin(Z), [0.441126, 0.464995, 0.964028])
    close(scorers.ml_entropy(Z), [0.545236, 0.505520, 0.090095])
    close(mmc_oracle.score(Z.tolist(), [2, 1, 2]), [0.838310, 1.047426, 0.053959])
    close(scorers.label_cardinality(Z, LABELLED), [0.5, 0.5, 0.5])
    close(scorers.ml_adaptive(Z, LABELLED, weight=1), [0.833333, 1, 0.125])
    h = torch.tensor([[1.0, 0], [0, 2], [1, 1]], dtype=torch.float64)
    gradients = torch.tensor([badge_oracle.gradient(z, f) for z, f in zip(Z.tolist(), h.tolist(), strict=True)])
    close(gradients.norm(dim=1), [0.537762, 1.072051, 0.044057])
    close((gradients[0] - gradients).square().sum(1), [0, 1.438481, 0.260973])


@pytest.mark.parametrize("name", POINT)
@given(rows=rows)
def test_double_precision_agrees_with_many_digits(name, rows):
    logits = torch.tensor(rows, dtype=torch.float64)
    found = getattr(scorers, name)(logits)
    torch.testing.assert_close(found, oracle(name, rows), rtol=1e-9, atol=1e-300)


@given(rows=rows, top=st.integers(1, 6))
def test_only_the_least_sure_labels_count_if_asked(rows, top):
    logits = torch.tensor(rows, dtype=torch.float64)
    want = oracle("ml_margin", rows, top)
    torch.testing.assert_close(scorers.ml_margin(logits, top=top), want, rtol=1e-9, atol=1e-300)
    signals = Signals(torch.arange(len(rows)), logits)
    assert torch.equal(MLMargin(top).score(signals), scorers.ml_margin(logits, top=top))


@pytest.mark.parametrize("name", POINT)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precisions_agree(name, dtype):
    logits = (20 * torch.randn(30, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = getattr(scorers, name)(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), oracle(name, logits.double().tolist()), rtol=1e-4, atol=1e-30)


@given(passes=st.lists(rows, min_size=2, max_size=4), agree=st.booleans())
def test_bald_is_the_mean_over_labels(passes, agree):
    n, c = min(map(len, passes)), min(len(one[0]) for one in passes)
    logits = torch.tensor([[row[:c] for row in one[:n]] for one in passes], dtype=torch.float64)
    logits = logits[:1].expand_as(logits).contiguous() if agree else logits
    found = ml_bald(logits)
    torch.testing.assert_close(found, oracle("ml_bald", logits.tolist()), rtol=1e-7, atol=1e-14)
    assert not agree or not found.any()


def test_sure_samples_keep_their_order():
    gaps = torch.arange(18.0, 80.0, 2.0)
    logits = torch.stack([gaps, -gaps], 1)
    for name in POINT:
        scores = getattr(scorers, name)(logits)
        assert (scores.diff() < 0).all()
        assert (scores > 0).all()
        assert getattr(scorers, name)(torch.tensor([[3e38, -3e38]])).tolist() == [0.0]
    assert float(ml_bald(torch.tensor([[[1e4, 0.0]], [[-1e4, 0.0]]]))[0]) == pytest.approx(math.log(2) / 2)


@given(data=st.data(), seed=st.integers(0, 99), extreme=st.booleans())
def test_badge_draws_what_the_written_out_gradients_draw(data, seed, extreme):
    n, c, d = (data.draw(st.integers(1, most)) for most in (12, 4, 3))
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, generator=generator, dtype=torch.float64)
    logits = logits.sign() * 30 if extreme else logits
    features = torch.randint(-1, 3, (n, d), generator=generator).double()
    k = data.draw(st.integers(1, n))
    want = badge_oracle.pick(logits.tolist(), features.tolist(), k, as_rng(seed).random(k).tolist())
    assert ml_badge(logits, features, k, rng=seed).tolist() == want


@given(rows=rows, labelled=st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=6))
def test_cardinalities_agree(rows, labelled):
    logits = torch.tensor(rows, dtype=torch.float64)
    known = [labels[: len(rows[0])] for labels in labelled]
    signals = Signals(torch.arange(len(rows)), logits, labelled_labels=torch.tensor(known))
    for name in ("label_cardinality", "ml_adaptive"):
        torch.testing.assert_close(get_scorer(name).score(signals), oracle(name, rows, known), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_mmc_predicts_how_many_labels_there_are(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, theirs = (3 * torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (30, 40))
    labels = (theirs + torch.randn(40, 4, generator=generator) > 0).long()
    labels = labels[:1].expand_as(labels) if seed == 0 else labels  # always as many
    counts = mmc_oracle.counts(logits.tolist(), theirs.tolist(), labels.tolist())
    torch.testing.assert_close(
        mmc(logits, theirs, labels), torch.tensor(mmc_oracle.score(logits.tolist(), counts)).double()
    )
    assert (len(set(counts)) == 1) == (seed == 0)


READING = [name for name in SCORERS if SCORERS[name]().needs & {"logits", "mc_logits"}]


@pytest.mark.parametrize("name", READING)
def test_what_the_logits_are_decides(name):
    """Softmax of independent labels has no meaning; of classes, each is a label that a sample has or has not."""
    scorer = get_scorer(name)
    with pytest.raises(InputError, match="outputs are values"):
        scorer.select(example_signals(scorer.needs, outputs="values"), 3, rng=0)
    independent, classes = (example_signals(scorer.needs, outputs=kind) for kind in ("sigmoid", "softmax"))
    if getattr(scorer, "outputs", "softmax") == "softmax":
        with pytest.raises(InputError, match=r"take ml_entropy, ml_margin, .* such as k_center"):
            scorer.select(independent, 3, rng=0)
        same = example_signals(scorer.needs)
    else:
        odds = {field: getattr(classes, field) for field in scorer.needs if field.endswith("logits")}
        odds = {field: torch.logit(z.double().softmax(-1)) for field, z in odds.items()}
        same = replace(independent, **odds)
        assert len(scorer.select(independent, 3, rng=0).indices) == 3
    if isinstance(scorer, PointScorer):
        torch.testing.assert_close(scorer.score(classes).double(), scorer.score(same).double(), rtol=1e-4, atol=1e-5)
    else:
        assert scorer.select(classes, 3, rng=0).indices.tolist() == scorer.select(same, 3, rng=0).indices.tolist()


@given(rows=rows.filter(lambda rows: len(rows[0]) > 1))
def test_the_odds_of_a_class_are_exact_where_its_probability_rounds_to_one(rows):
    logits = torch.tensor(rows, dtype=torch.float64)
    want = []
    for row in rows:
        others = [[z for k, z in enumerate(row) if k != j] for j in range(len(row))]
        want.append(
            [z - torch.tensor(rest, dtype=torch.float64).logsumexp(0) for z, rest in zip(row, others, strict=True)]
        )
    torch.testing.assert_close(one_against_rest(logits), torch.tensor(want, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_a_sample_of_two_sure_labels_is_no_uncertain_one():
    signals = Signals(torch.arange(2), torch.tensor([[9.0, 9.0, -9.0], [1.0, 0.0, -1.0]]), outputs="sigmoid")
    for name in [*POINT, "ml_adaptive"]:
        signals = Signals(signals.indices, signals.logits, labelled_labels=LABELLED, outputs="sigmoid")
        assert get_scorer(name).select(signals, 1).indices.tolist() == [1]


def test_combined_scorers_say_what_their_parts_read():
    assert TwoStage("ml_entropy", "k_center").outputs == "sigmoid"
    assert TwoStage("random", "k_center").outputs == "softmax"
    assert ClassBalanced("entropy").outputs == "softmax"


@pytest.mark.parametrize(
    ("scorer", "labels", "phrase"),
    [
        ("label_cardinality", None, "labelled_labels, but it is None"),
        ("label_cardinality", torch.zeros(2, 4), r"shape \[2, 4\] and there are 3 labels"),
        ("ml_adaptive", torch.zeros(0, 3), "at least one labelled sample"),
        ("mmc", LABELLED, "labelled_logits, but it is None"),
        ("mmc", torch.full((2, 3), torch.nan), "labelled_labels of 2 of 2 samples are NaN"),
    ],
)
def test_what_is_known_of_labelled_samples_is_checked(scorer, labels, phrase):
    with pytest.raises(ValueError, match=phrase):
        get_scorer(scorer).select(Signals(torch.arange(3), Z, labelled_labels=labels), 1)


def test_options_are_checked():
    with pytest.raises(InputError, match="top=0; pass a whole number from 1"):
        MLMargin(0)
    with pytest.raises(InputError, match="weight=2; pass a finite number >= 0 and <= 1"):
        scorers.MLAdaptive(2)
    with pytest.raises(InputError, match=r"labelled_logits have shape \[1, 3\]"):
        MMC().score(Signals(torch.arange(3), Z, labelled_logits=Z[:1], labelled_labels=LABELLED))
