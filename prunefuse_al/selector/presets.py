"""Named sets of a selector's options."""

from __future__ import annotations

from typing import Any

from .. import checks
from ..training import ShrinkPerturb


def selector_preset(name: str) -> dict[str, Any]:
    """Return options for `PrunedProxySelector` and `PruneFuseEstimator`, by name.

    * "recommended": what did best in most of our measurements at no risk that we know of: `margin` picks, and each
      round's proxy goes on from the last one's weights, after the first round for a third of the trainer's epochs. A
      round then depends on those before it; the trainer must have a number of `epochs`, of which a third is enough to
      learn a few new labels.
    * "paper": PruneFuse (arXiv 2501.01118) as it is described: half of the channels by L2 norm, the same share in
      every layer; a fresh proxy every round; least confidence; trained values put back and all others kept, whatever
      the network knew before; the target trained as the proxy was, without a teacher (its rate, and the weight of
      distillation, are not stated). Give `sync_every` for its V2, and ``TorchTrainer.preset("cifar")`` or
      ``"imagenet"`` for its training.
    * "cheap_rounds": each round's proxy goes on from the last one's weights for a third of the trainer's epochs, and a
      query scores a random 30 % of the candidates. For loops of several rounds whose trainer gives a fresh proxy
      epochs enough to end its training. Not for two or three rounds (the first one trains in full), not for trainers
      of so few epochs that a third of them is nothing, not where a query takes a large part of the pool (30 % must hold
      several times k), and not where every round must be a function of its labels alone: warm starts remember.
    * "cheapest_rounds": the same for a tenth of the epochs, with a pruning ratio of 0.7 (about a tenth of the work).
      The first round trains in full and is about a third of the cost over five rounds: this pays in long loops, or
      with a `trainer` of fewer epochs than the `target_trainer`. Over nine rounds (`examples/paper/results`) it took
      0.08 of the dense loop's seconds for targets that were 0.4 points behind. Not for networks so narrow that 0.3 of
      their channels learn little, nor where a tenth of the epochs is less than one or two; where labels are few and
      the picks matter, "cheap_rounds" is the safer choice, and where dense networks would go on from round to round,
      so is ``warm_start=True`` alone.

    Raises:
        InputError: there is no such preset.

    Example:
        >>> sorted(selector_preset("cheapest_rounds"))
        ['candidate_fraction', 'pruning_ratio', 'warm_start']
    """
    presets: dict[str, dict[str, Any]] = {
        "recommended": {"scorer": "margin", "warm_start": ShrinkPerturb(1.0, 0.0, epochs=1 / 3)},
        "paper": {
            "pruning_ratio": 0.5,
            "scorer": "least_confidence",
            "importance": "l2",
            "scope": "local",
            "warm_start": False,
            "candidate_fraction": 1.0,
            "cross": "copy",
            "pretrained": False,
            "recalibrate": False,
            "fine_tune_lr_scale": None,
        },
        "cheap_rounds": {"warm_start": ShrinkPerturb(1.0, 0.0, epochs=1 / 3), "candidate_fraction": 0.3},
        "cheapest_rounds": {
            "pruning_ratio": 0.7,
            "warm_start": ShrinkPerturb(1.0, 0.0, epochs=1 / 10),
            "candidate_fraction": 0.3,
        },
    }
    return presets[checks.one_of("preset: name", name, presets)]
