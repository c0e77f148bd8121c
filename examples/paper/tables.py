"""Tables and texts as plans read them: each row is a picture of one pixel, with a channel for each column."""

from __future__ import annotations

import numpy as np
from data import Images, load_table, load_texts
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split

TABLES = {"letters": "LetterRecognition", "shuttle": "Shuttle"}
ROWS = (*TABLES, "mails")
WORDS = 1000  # the commonest ones of the training texts


def load(name: str, root: str) -> Images:
    """Return the rows called `name`, a third of them for testing, drawn by class and always the same.

    Args:
        name: one of `ROWS`: "letters" and "shuttle" are tables of R's mlbench, their columns scaled; "mails" are
            SpamAssassin's, by the tf-idf of their commonest words.
        root: folder with the files, at any depth, see `data.load_table` and `data.load_texts`.

    Raises:
        ValueError: the files are not there.
    """
    if name in TABLES:
        x, y, source = load_table(root, TABLES[name])
        parts = halves(x, y)
    else:
        mails = load_texts(root)
        x, y, source = np.array(mails.texts, dtype=object), mails.y, mails.source
        x_train, y_train, x_test, y_test = halves(x, y)
        vectors = TfidfVectorizer(max_features=WORDS, sublinear_tf=True, dtype=np.float32).fit(x_train)
        parts = vectors.transform(x_train).toarray(), y_train, vectors.transform(x_test).toarray(), y_test
    if source.startswith("no "):
        raise ValueError(f"{name}: {source.partition(':')[0]}; docs/protocol.md says where they are from")
    return Images(as_pixels(parts[0]), parts[1], as_pixels(parts[2]), parts[3])


def halves(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x and y to train on, and x and y to test on."""
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=0)
    return x_train, y_train, x_test, y_test


def as_pixels(x: np.ndarray) -> np.ndarray:
    """Return rows [n d] as float32 [n d 1 1]."""
    return np.ascontiguousarray(x, dtype=np.float32)[:, :, None, None]


def long_tailed(y: np.ndarray, factor: float) -> np.ndarray:
    """Return the rows, ascending, that are left where classes fall geometrically from the first to the last.

    Args:
        y: labels, int64 [n] from 0.
        factor: how many times as many rows the first class has as the last (Cui et al., 2019: n * factor^(-c/(C-1))).
            Classes keep their first rows, at least one, and no more than they have.
    """
    classes = int(y.max()) + 1
    most = np.bincount(y).max() * factor ** -(np.arange(classes) / max(1, classes - 1))
    kept = [np.flatnonzero(y == c)[: max(1, round(float(most[c])))] for c in range(classes)]
    return np.sort(np.concatenate(kept))


def noisy(y: np.ndarray, share: float) -> np.ndarray:
    """Return labels of which a share, drawn at random and always the same, is another class, each alike."""
    rng, classes = np.random.default_rng(0), int(y.max()) + 1
    wrong = rng.permutation(len(y))[: round(share * len(y))]
    changed = y.copy()
    changed[wrong] = (y[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return changed
