"""Other people's own code for what the scorers here do, made callable on the same arrays; none of it is copied.

    pip install modAL-python skorch scikit-activeml small-text==1.4.1
    mkdir peers && cd peers        # its path is --peers-root of the benchmarks
    git clone https://github.com/PatrickZH/DeepCore
    git clone https://github.com/stanford-futuredata/selection-via-proxy
    git clone https://github.com/ej0cl6/deep-active-learning
    git clone https://github.com/haizhongzheng/Coverage-centric-coreset-selection
    git clone https://github.com/adymaharana/d2pruning
    git clone https://github.com/asaran/VeSSAL
    git clone https://github.com/sanketx/AL-foundation-models

The clones are research code without releases: they are imported from where they lie, and need torchvision. What is not
there is said and left out. Where their code asks a network, it is given one that looks the answers up.
"""

from __future__ import annotations

from peer_access import Peer
from peers_of_coresets import (
    ccs_dynamics,
    ccs_strata,
    d2pruning_graph,
    d2pruning_moderate,
    deepcore_forgetting,
    deepcore_grand,
    svp_forgetting,
)
from peers_of_features import (
    alfm_dropquery,
    deepcore_k_center,
    plain_k_center,
    skactiveml_badge,
    skactiveml_k_center,
    skactiveml_probcover,
    skactiveml_typiclust,
    smalltext_cal,
    smalltext_k_center,
    svp_k_center,
    vessal_sampler,
)
from peers_of_probabilities import (
    by_dal,
    by_deepcore,
    by_modal,
    by_skactiveml,
    by_small_text,
    by_svp,
    skactiveml_batchbald,
)

_PAIRS = {"most": 10_000}  # a matrix of all pairs of rows, or of picks and labelled rows by rows
NEVER = "gives what was never learnt 0, as if it were learnt at once"
PEERS: dict[str, dict[str, Peer]] = {
    "least_confidence": {
        "modAL": by_modal("uncertainty_sampling"),
        "scikit-activeml": by_skactiveml("least_confident"),
        "small-text": by_small_text("LeastConfidence"),
        "SVP": by_svp("least_confidence"),
        "DeepCore": by_deepcore("LeastConfidence"),
        "deep-active-learning": by_dal("LeastConfidence"),
    },
    "margin": {
        "modAL": by_modal("margin_sampling"),
        "scikit-activeml": by_skactiveml("margin_sampling"),
        "small-text": by_small_text("BreakingTies"),
        "DeepCore": by_deepcore("Margin"),
        "deep-active-learning": by_dal("MarginSampling"),
    },
    "entropy": {
        "modAL": by_modal("entropy_sampling"),
        "scikit-activeml": by_skactiveml("entropy"),
        "small-text": by_small_text("PredictionEntropy"),
        "SVP": by_svp("entropy"),
        "DeepCore": by_deepcore("Entropy"),
        "deep-active-learning": by_dal("EntropySampling"),
    },
    "bald": {"small-text": by_small_text("BALD"), "deep-active-learning": by_dal("BALDDropout")},
    "batchbald": {"scikit-activeml": Peer(skactiveml_batchbald, "draws other outcomes once there are many", 10_000)},
    "k_center": {
        "plain": Peer(plain_k_center, "rounds in single precision"),
        "scikit-activeml": Peer(skactiveml_k_center, **_PAIRS),
        "small-text": Peer(smalltext_k_center, **_PAIRS),
        "SVP": Peer(svp_k_center, **_PAIRS),
        "DeepCore": Peer(deepcore_k_center, **_PAIRS),
        "deep-active-learning": by_dal("KCenterGreedy", note="single precision; in order of rows", most=5000),
    },
    "badge": {"scikit-activeml": Peer(skactiveml_badge, "draws otherwise", 10_000)},
    "vessal": {
        "VeSSAL": Peer(vessal_sampler, "single precision; a product of matrices for each row", 2000),
    },
    "typiclust": {"scikit-activeml": Peer(skactiveml_typiclust, "another k-means", **_PAIRS)},
    "probcover": {
        "scikit-activeml": Peer(skactiveml_probcover, "ties in another order, of which there are many", **_PAIRS)
    },
    "cal": {"small-text": Peer(smalltext_cal, "looks for neighbours among all rows, not the labelled ones", **_PAIRS)},
    "dropquery": {"ALFM": Peer(alfm_dropquery, "single precision; fails where no row changes in all passes")},
    "moderate": {"d2pruning": Peer(d2pruning_moderate, "its complement: it keeps the two tails")},
    "ccs": {"CCS": Peer(ccs_strata, "draws otherwise; its upper edge loses the maximum where that is <= 0")},
    "forgetting()": {
        "CCS": Peer(ccs_dynamics("forgetting"), NEVER),
        "DeepCore": Peer(deepcore_forgetting, NEVER),
        "SVP": Peer(svp_forgetting, "ties in another order"),
    },
    "aum()": {"CCS": Peer(ccs_dynamics("accumulated_margin"))},
    "el2n()": {"CCS": Peer(ccs_dynamics("el2n"))},
    "grand()": {"DeepCore": Peer(deepcore_grand)},
    "d2()": {"d2pruning": Peer(d2pruning_graph, "ties in another order", 2000)},
}
