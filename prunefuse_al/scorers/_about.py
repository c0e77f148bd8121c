"""What users choose a scorer by, in one table; what a scorer reads stands in its own `needs`.

Letters: n candidates, m labelled, c classes, d feature width, t passes, k picks, s states kept of a
training, e those of them that are early.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """Facts about one scorer.

    Attributes:
        labels: "no" (goes by none), "yes" (by given ones in core-set mode, else by those the network predicts), or "as
            its parts".
        passes: forward passes over the candidates, beside training; "core set; pool" where these differ.
        memory: what has to be held at once, beside the data.
        use: when to take it, in one sentence.
        paper: first author and year.
    """

    labels: str
    passes: str
    memory: str
    use: str
    paper: str


ABOUT: dict[str, About] = {
    "random": About("no", "0", "n", "The baseline: whatever does not beat it is not worth its cost.", "none"),
    "least_confidence": About(
        "no",
        "1",
        "n",
        "Selection via Proxy's. A network that has learnt little is sure of the wrong things: then worse than random.",
        "Lewis & Gale 1994; Coleman 2020",
    ),
    "margin": About(
        "no", "1", "n", "A safe default, often the best of the simple ones with many classes.", "Scheffer 2001"
    ),
    "entropy": About(
        "no", "1", "n", "Where it matters how many classes compete, not only the first two.", "Shannon 1948"
    ),
    "bald": About(
        "no",
        "1 + t",
        "n",
        "The network has dropout, and noise that no label would remove should not attract labels.",
        "Houlsby 2011; Gal 2017",
    ),
    "batchbald": About(
        "no",
        "1 + t",
        "t n c",
        "As bald, for batches of up to about 100 that should not repeat themselves; t = 100 or so.",
        "Kirsch 2019",
    ),
    "k_center": About(
        "no", "1, and 1 over what is labelled", "(n + m) d", "Coverage: large batches, few outliers.", "Sener 2018"
    ),
    "badge": About(
        "no", "1", "n (2c + d)", "Uncertain and diverse at once; robust to the size of the batch.", "Ash 2020"
    ),
    "vessal": About(
        "no",
        "1",
        "2 D^2, D = min(c d, width)",
        "As badge, decided row by row in one pass; `VeSSALStream` takes batches of a pool beyond memory.",
        "Saran 2023",
    ),
    "typiclust": About(
        "no",
        "1, and 1 over what is labelled",
        "(n + m) d",
        "The first labels: fewer than about 20 a class.",
        "Hacohen 2022",
    ),
    "probcover": About(
        "no",
        "1, and 1 over what is labelled",
        "(n + m) d",
        "The first labels, with features that separate classes.",
        "Yehuda 2022",
    ),
    "cal": About(
        "no",
        "1, and 1 over what is labelled",
        "n (c + d) + m (3c + d)",
        "Near what is labelled, yet predicted otherwise.",
        "Margatina 2021",
    ),
    "dropquery": About(
        "no",
        "1",
        "n d",
        "Features of a strong network, frozen or hardly trained on, as of a `Probe`; t passes are of its head alone.",
        "Gupte 2024",
    ),
    "dropquery_init": About(
        "no", "1", "n d", "The first labels for dropquery; nothing is labelled, nothing is trained.", "Gupte 2024"
    ),
    "forgetting": About("yes", "0; 1 + s", "n", "Core sets: keep what is unlearned again and again.", "Toneva 2019"),
    "aum": About("yes", "0; 1 + s", "n", "Core sets; low values are hard or mislabelled.", "Pleiss 2020"),
    "el2n": About("yes", "0; 1 + e", "n", "Core sets, from the first epochs alone.", "Paul 2021"),
    "grand": About("yes", "e; 1 + e", "n", "As el2n, with the features' length counted.", "Paul 2021"),
    "moderate": About("yes", "1", "n d", "Core sets from noisy data: neither the easiest nor the oddest.", "Xia 2023"),
    "ccs": About(
        "yes",
        "0; 1 + s",
        "n",
        "Core sets of a small fraction: hard ones alone fail there.",
        "Zheng 2023",
    ),
    "d2": About("yes", "1; 1 + s", "n d", "Core sets: difficulty spread over a graph of neighbours.", "Maharana 2024"),
    "moso": About("yes", "2s; 2 + 2s", "n", "Core sets by what leaving a sample out would do.", "Tan 2024"),
    "influence": About(
        "yes",
        "1",
        "2 n min(c d, width)",
        "Core sets from given labels: a group whose removal leaves the last layer where it is; try several seeds.",
        "Yang 2022",
    ),
    "loss_band": About("yes", "1", "n", "Core sets: neither learnt nor hopeless, as AdaPruner's mask.", "Yang 2023"),
    "adapruner": About(
        "yes",
        "0, and more epochs with the mask; refused",
        "n",
        "Core sets: which samples to keep is learnt with the network. By frozen losses it is loss_band.",
        "Yang 2023",
    ),
    "class_balanced": About(
        "yes",
        "those of its part",
        "n, or what its part holds",
        "Classes differ much in size, and rare ones matter.",
        "Zheng 2023 (rule)",
    ),
    "class_standardised": About(
        "yes", "those of its part", "n", "Scores of some classes are all low, and none may be left out.", "Tan 2024"
    ),
    "mixture": About(
        "as its parts",
        "those of its parts",
        "what its parts hold",
        "Uncertain samples alone are outliers, or drift.",
        "none",
    ),
    "two_stage": About(
        "as its parts",
        "the first part's; the second's over k keep",
        "n, and the second part's for k keep",
        "A diverse scorer on a pool it would not get through.",
        "Wei 2015",
    ),
    "ml_min_margin": About(
        "no", "1", "n", "Independent labels that must all be right: one undecided is enough.", "Brinker 2006"
    ),
    "ml_margin": About(
        "no",
        "1",
        "n",
        "Independent labels; with very many, `top=` leaves the easy ones out of the mean.",
        "Brinker 2006 (mean)",
    ),
    "ml_entropy": About("no", "1", "n", "Independent labels: a safe default.", "Shannon 1948"),
    "ml_bald": About("no", "1 + t", "n", "As bald, for independent labels.", "Houlsby 2011; Gal 2017"),
    "ml_badge": About("no", "1", "n (c + d)", "As badge, for independent labels.", "Ash 2020 (for BCE)"),
    "mmc": About(
        "no",
        "1, and 1 over what is labelled",
        "n",
        "Independent labels, where how many a sample has can be told from their probabilities.",
        "Yang 2009",
    ),
    "label_cardinality": About(
        "no", "1", "n", "Independent labels; takes few values, so take it with another one.", "Li & Guo 2013"
    ),
    "ml_adaptive": About(
        "no", "1", "n", "Independent labels: undecided ones, in samples with an odd number of them.", "Li & Guo 2013"
    ),
    "cost_aware": About("as its parts", "those of its part", "n", "Labels do not all cost the same.", "Settles 2008"),
}
