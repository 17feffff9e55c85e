"""What a random sample of a finite population tells about the rest: exact hypergeometric bounds, in integers."""

from __future__ import annotations

from fractions import Fraction
from math import comb

from robustscope.core.errors import InvalidValue


def few_found(population: int, marked: int, drawn: int, found: int) -> Fraction:
    """Return the probability that ``drawn`` members, taken without replacement, hold at most ``found`` marked ones.

    Example:
        >>> few_found(4, 2, 2, 0)
        Fraction(1, 6)
    """
    ways = sum(comb(marked, i) * comb(population - marked, drawn - i) for i in range(min(found, marked, drawn) + 1))
    return Fraction(ways, comb(population, drawn))


def most_marked(population: int, drawn: int, found: int, risk: float) -> int:
    """Return the upper confidence bound on how many members of a population are marked, the found ones included.

    The bound is the largest number under which finding so few is not yet as unlikely as ``risk``; it falls short of the
    truth with a probability of at most ``risk``, whatever the truth. It is exact for every population: no
    approximation for large numbers is made, and drawing all members leaves no doubt.

    Args:
        population: members, >= 0.
        drawn: members drawn at random without replacement, 0 to ``population``.
        found: marked ones among them.
        risk: one minus the confidence, in (0, 1).

    Returns:
        An integer from ``found`` to ``population``.

    Raises:
        InvalidValue: for numbers that contradict each other.

    Example:
        >>> most_marked(530, 70, 0, 0.05)
        20

    Source: one-sided Neyman bound for the hypergeometric distribution; Buonaccorsi, 1987, The American Statistician
        41(3), 215-218.
    """
    _check(population, drawn, found, risk)
    # The probability falls as more are marked, so the last number that is not too unlikely can be bisected.
    low, high = found, population - (drawn - found)
    while low < high:
        middle = (low + high + 1) // 2
        if few_found(population, middle, drawn, found) > Fraction(risk):
            low = middle
        else:
            high = middle - 1
    return low


def draws_needed(population: int, most: int, risk: float, found: int = 0) -> int:
    """Return the fewest draws after which finding ``found`` marked members bounds all of them by ``most``.

    Args:
        population: members.
        most: the bound wanted on the marked members, the found ones included, >= ``found``.
        risk: one minus the confidence, in (0, 1).
        found: marked members that the draws are expected to hold.

    Returns:
        An integer from ``found`` to ``population``; the whole population if nothing less will do.

    Example:
        >>> draws_needed(530, 20, 0.05)
        70
    """
    _check(population, found, found, risk)
    if most < found:
        raise InvalidValue(f"most={most} was given for found={found}", "most >= found is allowed", "Correct one.")
    low, high = found, max(found, 1)
    while high < population and most_marked(population, high, found, risk) > most:  # small numbers are quick to count
        low, high = high, 2 * high
    high = min(high, population)
    while low < high:
        middle = (low + high) // 2
        if most_marked(population, middle, found, risk) <= most:
            high = middle
        else:
            low = middle + 1
    return low


def _check(population: int, drawn: int, found: int, risk: float) -> None:
    if not 0 <= found <= drawn <= population:
        raise InvalidValue(
            f"population={population}, drawn={drawn} and found={found} were given",
            "0 <= found <= drawn <= population is allowed",
            "Count again: draws are without replacement.",
        )
    if not 0 < risk < 1:
        raise InvalidValue(f"risk={risk} was given", "(0, 1) is allowed", "Write 0.05 for 95 % confidence.")
