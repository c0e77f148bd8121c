"""What setup.cfg cannot say: README for a package index, where links into the repository lead nowhere.

Everything else stands in setup.cfg. Where its [metadata] has a project URL called Source, links become addresses in
there; without one, the words of a link stay and pictures go.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def address() -> str:
    """Return the repository's address from setup.cfg, or "" while there is none."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    pairs = (line.partition("=") for line in config["metadata"].get("project_urls", "").splitlines())
    return next((url.strip().rstrip("/") for name, _, url in pairs if name.strip() == "Source"), "")


def for_an_index(text: str, source: str) -> str:
    """Return Markdown whose relative links are addresses under `source`, or plain words where that is empty."""

    def replaced(link: re.Match[str]) -> str:
        picture, words, path = link.groups()
        if not source:
            return "" if picture else words
        return f"{picture}[{words}]({source}/{'raw' if picture else 'blob'}/main/{path})"

    return LINK.sub(replaced, text)


if __name__ == "__main__":
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(long_description=for_an_index(readme, address()))
