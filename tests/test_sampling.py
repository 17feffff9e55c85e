"""The audit's statistics: exact coverage by enumeration, agreement with SciPy, and what a wrong bound would give."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import hypergeom

from robustscope.core.errors import InvalidValue
from robustscope.core.sampling import draws_needed, few_found, most_marked


def missed(bound, population, marked, drawn):
    """Probability that ``bound(found)`` lies below the truth."""
    found = range(max(0, drawn - (population - marked)), min(drawn, marked) + 1)
    return sum(hypergeom.pmf(k, population, marked, drawn) for k in found if bound(k) < marked)


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.2])
def test_the_bound_falls_short_with_no_more_than_the_risk_in_every_small_population(risk):
    for population in range(1, 15):
        for drawn in range(population + 1):
            bounds = [most_marked(population, drawn, k, risk) for k in range(drawn + 1)]
            for marked in range(population + 1):
                assert missed(bounds.__getitem__, population, marked, drawn) <= risk + 1e-12


@pytest.mark.parametrize("wrong", ["found in proportion", "one too few"])
def test_the_coverage_check_catches_a_wrong_bound(wrong):
    population, drawn, risk = 14, 5, 0.05

    def bound(found):
        if wrong == "found in proportion":
            return round(found / drawn * population)
        return most_marked(population, drawn, found, risk) - 1

    assert max(missed(bound, population, marked, drawn) for marked in range(population + 1)) > risk


def test_probabilities_equal_enumeration_and_scipy():
    population, marked, drawn = 7, 3, 4
    sets = list(combinations(range(population), drawn))
    for found in range(4):
        count = sum(sum(i < marked for i in chosen) <= found for chosen in sets)
        assert few_found(population, marked, drawn, found) == Fraction(count, len(sets))
    for size, bad, taken, k in [(530, 21, 70, 0), (5300, 130, 155, 2), (1000, 1000, 10, 10), (50, 0, 10, 0)]:
        assert float(few_found(size, bad, taken, k)) == pytest.approx(hypergeom.cdf(k, size, bad, taken), abs=1e-12)


def test_coverage_by_simulation_on_large_populations():
    generator = np.random.default_rng(0)
    for population, marked, drawn in [(530, 12, 70), (530, 60, 70), (5300, 100, 160), (40, 3, 20)]:
        found = generator.hypergeometric(marked, population - marked, drawn, 4000)
        bounds = {int(k): most_marked(population, drawn, int(k), 0.05) for k in np.unique(found)}
        short = np.mean([bounds[int(k)] < marked for k in found])
        assert short <= 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5


def test_drawing_all_leaves_no_doubt_and_drawing_none_leaves_all():
    assert [most_marked(9, 9, k, 0.05) for k in range(10)] == list(range(10))
    assert most_marked(9, 0, 0, 0.05) == 9
    assert most_marked(0, 0, 0, 0.05) == 0


@pytest.mark.parametrize(("population", "most", "found"), [(530, 20, 0), (530, 20, 2), (5300, 100, 0), (30, 0, 0)])
def test_draws_needed_is_the_smallest_number_that_does(population, most, found):
    drawn = draws_needed(population, most, 0.05, found)
    assert most_marked(population, drawn, found, 0.05) <= most
    assert drawn == found or most_marked(population, drawn - 1, found, 0.05) > most


@pytest.mark.parametrize("wrong", [(5, 6, 0, 0.05), (5, 3, 4, 0.05), (5, 3, -1, 0.05), (5, 3, 1, 0.0), (5, 3, 1, 1.0)])
def test_numbers_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(InvalidValue, match="allowed"):
        most_marked(*wrong)
