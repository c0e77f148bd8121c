"""The options that the examples of hosts share."""

from __future__ import annotations

import argparse

from data import NAMES


def loop_options(
    description: str | None, argv: list[str] | None, *, pictures: bool = False, pool: int, rounds: int, epochs: int
) -> argparse.Namespace:
    """Return the options of an active-learning loop, with these defaults; `pictures` may be others than digits."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if pictures:
        parser.add_argument("--data", default="digits", help=f"{', '.join(NAMES)}, or a .npz file (default: digits)")
    parser.add_argument("--root", default="data", help="folder with the data (default: data)")
    parser.add_argument("--pool", type=int, default=pool, help=f"samples to choose from (default: {pool})")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"queries of 50 samples (default: {rounds})")
    parser.add_argument("--epochs", type=int, default=epochs, help=f"of every training (default: {epochs})")
    parser.add_argument("--before", action="store_true", help="the loop as it was, with the dense network")
    return parser.parse_args(argv)
