import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtl_utils.randomness import generator

seeds = st.integers(0, 2**63 - 1)


@given(seed=seeds, epoch=st.integers(0, 10_000))
def test_same_name_same_draws_whatever_was_drawn_before(seed, epoch):
    first = generator(seed, "order", epoch).random(5)
    np.random.default_rng(0).random(100)
    generator(seed, "other", epoch).random(7)
    np.testing.assert_array_equal(generator(seed, "order", epoch).random(5), first)


def test_every_seed_stream_and_epoch_has_its_own_draws():
    draws = {
        tuple(generator(seed, stream, epoch).random(3))
        for seed in range(10)
        for stream in ("order", "pair", "blend", "dropout")
        for epoch in range(10)
    }
    assert len(draws) == 400


def test_epochs_do_not_overlap():
    first, second = (generator(0, "order", epoch).integers(0, 2**63, 10_000) for epoch in (0, 1))
    assert not set(first) & set(second)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 2**100])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=str(seed)):
        generator(seed, "order")
