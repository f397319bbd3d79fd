import pytest

from cutwork.measure.interval import wilson


@pytest.mark.parametrize("samples", [1, 7, 200, 1000])
def test_an_interval_holds_its_fraction_also_at_both_ends(samples):
    for right in range(samples + 1):
        low, high = wilson(right, samples)
        assert 0 <= low <= right / samples <= high <= 1


def test_it_is_wilsons():
    assert wilson(150, 200) == pytest.approx((0.6857, 0.8050), abs=1e-3)
