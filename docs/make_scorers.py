"""Write docs/scorers.md, the table of all scorers, from the code: `python docs/make_scorers.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prunefuse_al.scorers import SCORERS, CostAware
from prunefuse_al.scorers._about import ABOUT

PATH = Path(__file__).with_name("scorers.md")
COLUMNS = ("name", "reads", "labels", "passes", "memory", "when to use it", "paper")
HEAD = """# Scorers

Written by `python docs/make_scorers.py` from the code; a test compares.

Every name is a key of `SCORERS` and goes wherever a scorer is asked for: `PrunedProxySelector(..., scorer="margin")`,
`selector.select(X, k, scorer="bald")`, `query_strategy("entropy")`. Options are those of the class of the same name.

Letters: `n` candidates, `m` labelled, `c` classes, `d` feature width, `t` dropout passes, `k` picks, `s` states kept of
the proxy's training (at most 10), `e` those of its first 10 epochs (at least 1).
**Reads**: what a network is asked for. **Labels**: *yes*, the scorer goes by labels: given ones in core-set mode,
those that the proxy predicts on an unlabelled pool; `Selection.labels` says which. **Passes**: over the candidates,
with the network that scores, beside its training; two numbers are for core-set mode, where the training itself is
recorded, and for a pool, of which the kept states are asked. **Memory**: numbers held at once beside the data; where it
is `n`, the pool is read in parts and one score a row is kept, however many classes there are.

Those called `ml_...`, `mmc` and `label_cardinality` read logits of **independent labels**, of which a sample may have
several or none (`TorchTrainer(loss=nn.BCEWithLogitsLoss())`); of classes, each against all the others. The other
scorers of logits read those of classes, of which a sample has one, and refuse independent ones. One output with a
sigmoid counts as two classes.

[Seconds and memory, measured](scorers-measured.md), from 10,000 to a million candidates and beside others' code.
"""
COMBINED = """
## Scorers made of scorers

`ClassBalanced(scorer)`, `ClassStandardised(scorer)`, `Mixture(first, second, share)` and
`TwoStage(first, second, keep)` are in the table with what they are made of by default. One more has no default, for
what labels cost has to be said: `CostAware(scorer, costs)`.

"""
SIGNALS = """
## What is read, exactly

* **logits** `[n c]`: the network's output in eval mode.
* **features** `[n d]`: the input of the last linear layer on the way to the logits, found by following one pass:
  `nn.Linear`, a matrix product, or a convolution with the classes as its channels. A layer that is applied at several
  positions gives its input at the position that became the logits, else the mean over positions. Layers that meet in
  the logits give their inputs side by side. `features_dtype="float16"` halves the memory of a selector's pool features
  (values beyond 65,504 are refused), and `features_path="pool.npy"` keeps them in a file, mapped into memory and left
  there for `numpy.load(..., mmap_mode="r")`.
* **mc_logits** `[t n c]`: passes with dropout on and everything else, batch norm too, in eval mode. Pass `t` is one
  thinned network: all samples of all batches get the same masks. Functional dropout is switched on as well, whatever
  its `training=` says. Dropout inside one call (attention probabilities, between the layers of an `nn.LSTM`) and
  stochastic depth stay off; a network that has nothing else is refused. `TorchTrainer(mc_samples=t)` sets `t`.
* **labelled_features**, **labelled_logits**, **labelled_labels**: the same of what is labelled, and its labels
  `[m c]` of 0 and 1 (or numbers of classes).
* **head** `[c d+1]`: the weights, then the bias, of the layer that makes the logits of the features, known by what it
  makes. Networks that end otherwise are refused.
* **labels** `[n]`: in core-set mode the given ones; on a pool, the classes that the trained proxy predicts.
* **dynamics**: how each sample was answered while the proxy was trained. In core-set mode correctness, margins and
  errors are those of the training's own passes, one a presentation. A pool cannot be trained on: there the states kept
  at the ends of up to 10 evenly spaced epochs are asked, with the predicted labels. The gradients of `grand` and `moso`
  are those of the *last layer*, at the kept states of the one training, in both modes; `scorers.grand` takes those of
  several short trainings where they are at hand.
"""


def page() -> str:
    """Return the whole page."""
    others = {"cost_aware": CostAware}
    rows = ([name, reads(SCORERS[name]().needs), *facts(name)] for name in SCORERS)
    more = ([f"`{cls.__name__}`", "what its parts read", *facts(name)] for name, cls in others.items())
    return HEAD + "\n" + table(rows) + COMBINED + table(more) + SIGNALS


def reads(needs: Iterable[str]) -> str:
    """Return the names of signals."""
    return ", ".join(sorted(needs)) or "nothing"


def facts(name: str) -> list[str]:
    """Return the cells of one scorer after what it reads."""
    about = ABOUT[name]
    return [about.labels, about.passes, about.memory, about.use, about.paper]


def table(rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    PATH.write_text(page())
    print(f"wrote {PATH.name}: {len(SCORERS)} scorers")
