"""The tutorials that need skorch run where it is installed."""

from __future__ import annotations

import pytest
from hosts import need_host
from pages import DOCS, HOSTED, run_page

need_host("skorch", at_least="1.4")


@pytest.mark.parametrize("page", [page for page, host in HOSTED.items() if host == "skorch"])
def test_the_tutorial_runs(tmp_path, page):
    run_page(tmp_path, DOCS / page)
