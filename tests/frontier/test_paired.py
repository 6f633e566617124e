import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, multinomial

from prune_tool.frontier.paired import NUISANCE_RISK, SLACK, SLACK_PER_P, Null, p_value, score

ALPHA = 0.05


def relative(b, m):
    return Null(b=b, c=1 - b, m=m)


def points(b, m):
    return Null(b=b, c=1.0, m=m)


@pytest.mark.parametrize("kind", [relative, points])
@pytest.mark.parametrize("b", [0.0, 0.01, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("m", [1, 7, 50])
def test_score_rises_with_lost_and_falls_with_won_images(kind, b, m):
    """Barnard's convexity: without it the null's supremum need not lie on its boundary."""
    lost, won = np.meshgrid(np.arange(m + 1.0), np.arange(m + 1.0), indexing="ij")
    scores = np.where(lost + won <= m, score(kind(b, m), lost, won), np.nan)
    assert np.nanmin(np.diff(scores, axis=0)) > 0
    assert np.nanmax(np.diff(scores, axis=1)) < 0


def most_lost_certified(null):
    """For each number of won images the most lost ones at which the null is rejected, -1 if none."""
    most, n_lost = [], -1
    for n_won in range(null.m + 1):
        while n_lost + 1 + n_won <= null.m and p_value(null, n_lost=n_lost + 1, n_won=n_won) <= ALPHA:
            n_lost += 1
        most.append(min(n_lost, null.m - n_won))
    return np.array(most)


@pytest.mark.parametrize(
    "null", [relative(0.05, 70), relative(0.4, 25), points(0.04, 80), points(0.2, 30), points(0.0, 40)]
)
def test_size_is_at_most_alpha_everywhere_in_the_null(null):
    """No simulation: every table is enumerated, under many rates on the boundary and beyond it."""
    most = most_lost_certified(null)
    won = np.arange(null.m + 1)
    sizes = []
    for t in np.concatenate([np.geomspace(1e-4, 1, 60), np.linspace(0, 1, 41)]) * null.max_won_rate:
        for beyond in (0.0, 0.01):
            q = min(null.b + null.c * t + beyond, 1 - t)
            given_won = binom.cdf(most, null.m - won, min(1.0, q / (1 - t)))
            sizes.append(binom.pmf(won, null.m, t) @ np.where(most < 0, 0, given_won))
    assert max(sizes) <= ALPHA
    assert max(sizes) > 0.7 * ALPHA  # and hardly any of it is given away


@pytest.mark.parametrize(
    ("null", "n_lost", "n_won"), [(relative(0.1, 30), 1, 2), (points(0.1, 25), 2, 3), (relative(0.3, 12), 2, 0)]
)
def test_p_value_is_the_largest_probability_of_a_table_as_favourable(null, n_lost, n_won):
    """Against a direct sum over all tables, on a fine grid of the won rates in the confidence set."""
    tables = np.array([(i, j) for i in range(null.m + 1) for j in range(null.m + 1 - i)])
    scores = score(null, tables[:, 0].astype(float), tables[:, 1].astype(float))
    region = tables[scores <= score(null, n_lost, n_won) + 1e-9]
    counts = np.column_stack([region, null.m - region.sum(axis=1)])
    low = beta.ppf(NUISANCE_RISK / 2, n_won, null.m - n_won + 1) if n_won else 0.0
    high = (beta.ppf(1 - NUISANCE_RISK / 2, n_lost + 1, null.m - n_lost) - null.b) / null.c
    rates = [(null.b + null.c * t, t) for t in np.linspace(low, min(high, null.max_won_rate), 800)]
    largest = max(multinomial.pmf(counts, null.m, [q, t, max(0.0, 1 - q - t)]).sum() for q, t in rates)
    p = p_value(null, n_lost=n_lost, n_won=n_won)
    assert largest + NUISANCE_RISK <= p <= largest * (1 + max(SLACK, SLACK_PER_P * largest)) + 2.1 * NUISANCE_RISK


def test_budget_zero_agrees_with_mcnemar_on_large_tables():
    """With no loss allowed the score is McNemar's; its exact conditional p-value is known."""
    p = p_value(points(0.0, 1000), n_lost=40, n_won=62)
    conditional = binomtest(40, 102, 0.5, alternative="less").pvalue
    assert 0.5 * conditional < p < 1.05 * conditional


@settings(max_examples=40)
@given(st.data())
def test_a_more_favourable_table_never_has_a_larger_p_value(data):
    m = data.draw(st.integers(2, 120))
    n_lost = data.draw(st.integers(0, m - 1))
    n_won = data.draw(st.integers(0, m - n_lost - 1))
    b = data.draw(st.sampled_from([0.0, 0.02, 0.1, 0.4]))
    kind = data.draw(st.sampled_from([relative, points]))
    p = p_value(kind(b, m), n_lost=n_lost, n_won=n_won)
    better = [p_value(kind(b, m), n_lost=n_lost, n_won=n_won + 1)]
    if n_lost:
        better.append(p_value(kind(b, m), n_lost=n_lost - 1, n_won=n_won))
    if kind is relative:  # an image that both got wrong, and that hence did not count, is won
        better.append(p_value(kind(b, m + 1), n_lost=n_lost, n_won=n_won + 1))
    assert max(better) <= p * (1 + max(SLACK, SLACK_PER_P * p)) + NUISANCE_RISK


def test_identical_predictions_follow_the_rule_of_three():
    """Nothing lost in 59 images: a 5 % drop would show none with probability 0.95 ** 59, just under 5 %."""
    p = p_value(relative(0.05, 59), n_lost=0, n_won=0)
    assert p == pytest.approx(0.95**59 + NUISANCE_RISK, abs=1e-6)


def test_without_images_nothing_is_rejected():
    assert p_value(relative(0.05, 0), n_lost=0, n_won=0) == 1.0
