"""VeSSAL decides as its oracle does, row by row, whatever the batches; and its stream says what it cannot take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import badge as badge_oracle
from oracles import vessal as oracle

from prunefuse_al.errors import BudgetError
from prunefuse_al.scorers import VeSSAL, VeSSALStream, vessal
from prunefuse_al.types import Signals, as_rng


class Draws:
    """Hands out numbers that are known beforehand, and draws none for what fills up."""

    def __init__(self, uniforms):
        self.left = list(uniforms)

    def random(self, size):
        taken, self.left = self.left[:size], self.left[size:]
        return np.array(taken)


def stream_of(uniforms, **options):
    stream = VeSSALStream(**options)
    stream._generator = Draws(uniforms)
    return stream


def logits_and_features(n, c, d, seed):
    rng = torch.Generator().manual_seed(seed)
    return (
        2 * torch.randn(n, c, generator=rng, dtype=torch.float64),
        torch.randn(n, d, generator=rng, dtype=torch.float64),
    )


def gradients(logits, features):
    return [badge_oracle.gradient(z, h) for z, h in zip(logits.tolist(), features.tolist(), strict=True)]


def test_the_worked_example():
    """Of gradients (1,0), (1,0), (0,1), (1,1) and draws 0.3, 0.9, 0.5, 0.2 the first and the third are picked."""
    rows, uniforms = [(1, 0), (1, 0), (0, 1), (1, 1)], (0.3, 0.9, 0.5, 0.2)
    picked, chances = oracle.pick(rows, 2, uniforms)
    assert picked == [0, 2]
    assert chances == pytest.approx([0.5, 1 / 3, 1, 0])
    # Two classes with equal logits have q - onehot = (-1/2, 1/2): each gradient stands there twice, over root 2.
    features = torch.tensor(rows, dtype=torch.float64) * 2**0.5
    stream = stream_of(uniforms, k=2, n=4)
    assert stream.offer(torch.zeros(4, 2), features).tolist() == [0, 2]
    assert stream._volume.inverse.trace() == pytest.approx(2 / 1.01 + 200)


@settings(max_examples=100)
@given(data=st.data())
def test_a_stream_decides_as_the_oracle_does_in_batches_of_any_size(data):
    n, c, d = data.draw(st.integers(1, 30)), data.draw(st.sampled_from([2, 3])), data.draw(st.integers(1, 3))
    k, seed = data.draw(st.integers(1, n)), data.draw(st.integers(0, 99))
    damping = data.draw(st.sampled_from([0.01, 1.0]))
    logits, features = logits_and_features(n, c, d, seed)
    if data.draw(st.booleans()):
        features = features[torch.arange(n) % 3]  # few different rows, of which most are copies
    uniforms = as_rng(seed).random(n)
    known = logits_and_features(data.draw(st.sampled_from([0, 1, 4])), c, d, seed + 1)
    want, _ = oracle.pick(gradients(logits, features), k, uniforms, damping, gradients(*known))
    stream = stream_of(uniforms, k=k, n=n, damping=damping)
    stream.know(*known)
    got = []
    for rows in torch.arange(n).split(data.draw(st.integers(1, n))):
        got += rows[stream.offer(logits[rows], features[rows])].tolist()
    assert got == stream.picked == want
    assert stream.seen == n


@settings(max_examples=50)
@given(n=st.integers(1, 25), scale=st.sampled_from(["rms", "raw"]), seed=st.integers(0, 99), data=st.data())
def test_a_pool_streams_in_an_order_drawn_and_is_filled_up(n, scale, seed, data):
    k = data.draw(st.integers(1, n))
    logits, features = logits_and_features(n, 3, 2, seed)
    generator = as_rng(seed)
    order, uniforms = generator.permutation(n), generator.random(n)
    rows = np.array(gradients(logits, features))
    rows = oracle.over_root_mean_square(rows) if scale == "rms" else rows
    picked, _ = oracle.pick(rows[order], k, uniforms)
    rest = [at for at in range(n) if at not in picked]
    picked += generator.permutation(rest)[: k - len(picked)].tolist() if len(picked) < k else []
    assert vessal(logits, features, k, scale=scale, rng=seed).tolist() == order[picked].tolist()


def test_labels_may_stand_for_predicted_classes():
    logits, features = logits_and_features(60, 3, 2, 0)
    predicted = logits.argmax(1)
    assert torch.equal(vessal(logits, features, 9, labels=predicted, rng=0), vessal(logits, features, 9, rng=0))
    signals = Signals(torch.arange(60), logits, features, labels=predicted.roll(1))
    given_labels = VeSSAL(by_labels=True)
    assert given_labels.needs == {"logits", "features", "labels"}
    assert not torch.equal(given_labels.select(signals, 9, rng=0).indices, VeSSAL().select(signals, 9, rng=0).indices)


def test_what_is_labelled_is_not_picked_again():
    """Half of the pool has gradients like a labelled row's, the other half others at a right angle to them."""
    features = torch.eye(2).repeat(100, 1)
    signals = Signals(
        torch.arange(200),
        torch.zeros(200, 2),
        features,
        labelled_logits=torch.zeros(1, 2),
        labelled_features=features[:1],
    )
    method = VeSSAL(include_labelled=True)
    assert method.needs == {"logits", "features", "labelled_logits", "labelled_features"}
    firsts = torch.cat([method.select(signals, 1, rng=seed).indices for seed in range(40)])
    assert (firsts % 2 == 1).sum() >= 38
    assert VeSSAL().select(signals, 1, rng=0).indices.shape == (1,)


def test_rows_are_picked_more_often_the_longer_they_are_at_first():
    """One pick, and a row in ten is three times as long: its chance is nine times that of another."""
    features = torch.ones(200, 1)
    features[::10] = 3.0
    often = sum(int(vessal(torch.zeros(200, 2), features, 1, rng=seed)) % 10 == 0 for seed in range(400)) / 400
    assert often == pytest.approx(0.5, abs=0.1)


def test_picks_span_more_than_random_ones():
    logits, features = logits_and_features(2000, 4, 5, 1)
    rows = torch.tensor(gradients(logits, features), dtype=torch.float64)

    def volume(picked):
        return float(torch.logdet(1e-2 * torch.eye(20, dtype=torch.float64) + rows[picked].T @ rows[picked]))

    drawn = [volume(torch.from_numpy(as_rng(seed).permutation(2000)[:100])) for seed in range(20)]
    assert min(volume(vessal(logits, features, 100, rng=seed)) for seed in range(5)) > max(drawn)


def test_few_picks_are_missing_after_a_pass():
    logits, features = logits_and_features(2000, 4, 5, 2)
    for seed in range(3):
        stream = VeSSALStream(200, 2000, rng=seed)
        stream.offer(logits, features)
        assert 198 <= len(stream.picked) <= 200
        assert len(stream.finish().unique()) == 200


def test_the_trace_and_the_inverse_stay_exact_over_many_picks():
    logits, features = logits_and_features(3000, 3, 10, 3)
    stream = VeSSALStream(1500, 3000, rng=0)
    for rows in torch.arange(3000).split(77):
        stream.offer(logits[rows], features[rows])
    rows = torch.tensor(gradients(logits, features), dtype=torch.float64)
    counted = 0.01 * torch.eye(30, dtype=torch.float64) + rows[stream.picked].T @ rows[stream.picked]
    volume = stream._volume
    torch.testing.assert_close(volume.inverse, torch.linalg.inv(counted), rtol=0, atol=1e-7)
    assert torch.equal(volume.inverse, volume.inverse.T)
    assert volume.trace == pytest.approx(float((volume.seen @ volume.inverse).trace()), rel=1e-6)


def test_long_gradients_are_projected_and_keep_their_products():
    logits, features = logits_and_features(40, 6, 50, 4)
    stream = VeSSALStream(5, 40, width=280, rng=0)
    stream.offer(logits, features)
    assert stream._volume.inverse.shape == (280, 280)
    rows = torch.tensor(gradients(logits, features), dtype=torch.float64)
    exact, volumes = rows @ rows.T, []
    for seed in range(30):
        stream = VeSSALStream(5, 40, width=280, rng=seed)
        stream.offer(logits, features)
        a = (rows.view(40, 6, 50) @ features[:, :, None])[..., 0] / features.square().sum(1, keepdim=True)
        sketch = stream._volume.sketch
        projected = sketch.of(a, features)
        torch.testing.assert_close(projected, rows @ sketch.matrix())
        volumes.append(projected @ projected.T)
    lengths = exact.diagonal().sqrt()
    gap = (torch.stack(volumes).mean(0) - exact) / torch.outer(lengths, lengths)
    assert gap.abs().mean() < 0.05
    assert gap.diagonal().abs().max() < 0.3


def test_gradients_at_the_ends_of_the_range():
    logits, features = logits_and_features(60, 3, 4, 5)
    want = vessal(logits, features, 9, rng=0).tolist()
    assert vessal(logits, features * 2.0**900, 9, rng=0).tolist() == want
    assert vessal(logits, features * 2.0**-900, 9, rng=0).tolist() == want
    with pytest.raises(ValueError, match="too long to be squared; take scale='rms'"):
        vessal(logits, features * 2.0**900, 9, scale="raw")


def test_a_stream_says_what_it_cannot_take():
    logits, features = logits_and_features(8, 3, 2, 0)
    stream = VeSSALStream(3, 10, rng=0)
    with pytest.raises(BudgetError, match="k=3 but only 0 rows came; pass more to `offer` first"):
        stream.finish()
    stream.offer(logits, features)
    with pytest.raises(ValueError, match="8 rows after 8, and n=10 were said to come"):
        stream.offer(logits, features)
    with pytest.raises(ValueError, match="8 rows were offered already; call it before `offer`"):
        stream.know(logits, features)
    with pytest.raises(ValueError, match="features of 1 numbers and logits of 3 classes, and before 2 and 3"):
        stream.offer(logits[:1], features[:1, :1])
    assert stream.seen == 8
    with pytest.raises(ValueError, match="labelled_logits and labelled_features go together"):
        vessal(logits, features, 2, labelled_logits=logits)
    assert len(stream.finish()) == 3
