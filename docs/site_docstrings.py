"""How docstrings are read for the reference: ``Example:`` is a section of examples, as ``Examples:`` is."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Gives the section the name that is understood."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rename it in one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
