"""Probabilities of one independent label, in digits enough for what double precision holds."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any


def digits(score: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function compute with so many digits that differences need no care."""

    def exact(*args: Any) -> Any:
        with localcontext() as context:
            context.prec, context.Emin, context.Emax = 120, -999_999, 999_999
            return score(*args)

    return exact


def sigmoid(z: float) -> Decimal:
    return 1 / (1 + (-Decimal(z)).exp())


def both(z: float) -> tuple[Decimal, Decimal]:
    """Return p and 1 - p, neither of them rounded away."""
    return sigmoid(z), sigmoid(-z)


def entropy(coin: tuple[Decimal, Decimal]) -> Decimal:
    return -sum((q * q.ln() for q in coin if q > 0), Decimal(0))
