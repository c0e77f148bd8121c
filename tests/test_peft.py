"""Networks that PEFT wraps: what it freezes stays, and its adapters are thinned, trained and fused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import blobs, mlp, seeded
from freezable import assert_kept, still, values
from peft import LoraConfig, get_peft_model

from prunefuse_al import PrunedProxySelector, TorchTrainer

X, Y = blobs(90)


def adapted(**options: Any) -> Any:
    config = LoraConfig(**{"r": 4, "target_modules": ["0", "2"], "modules_to_save": ["4"], **options})
    return seeded(lambda: get_peft_model(mlp(6, 32, 32, 3), config))


@pytest.mark.filterwarnings(
    "ignore::prunefuse_al.errors.FallbackWarning", "ignore::prunefuse_al.errors.NoEffectWarning"
)
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"bias": "lora_only"}], ids=str)
@pytest.mark.parametrize("rounds", [{}, {"sync_every": 2}], ids=str)
def test_the_base_stays_and_the_adapters_learn(options: dict[str, Any], rounds: dict[str, Any]) -> None:
    network = adapted(**options)
    before, kept = values(network), still(network)
    assert {"base_model.model.0.base_layer.weight", "base_model.model.4.original_module.weight"} <= kept
    trainer = TorchTrainer(3, 16, progress=False, device="cpu")
    chosen = PrunedProxySelector(network, 0.5, trainer=trainer, random_state=0, **rounds)
    for m in (40, 60):
        chosen.fit(X[:m], Y[:m])
        cut = chosen.proxy.channel_map.extract(before)
        assert_kept(cut, chosen.model, kept)
    for target in (chosen.fuse(), chosen.fit_target(), chosen.fit_target(X, Y)):
        assert_kept(before, target, kept)
        assert still(target) == kept
    learnt = values(target)
    assert all(not torch.equal(learnt[name], before[name]) for name in before.keys() - kept)
    assert chosen.proxy.report().mac_share < (0.6 if "use_dora" in options else 0.4)  # DoRA adds tensors of fixed size
