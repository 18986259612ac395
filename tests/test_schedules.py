import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtl_utils.schedules import (
    CONSTANT,
    SCHEDULES,
    Even,
    Grid,
    IsoClassification,
    check_taus,
    schedule,
)
from rtl_utils.training import History

# --- grids ---


def test_grid_gives_each_tau_an_equal_share_of_the_epochs():
    assert [Grid((0, 0.5, 1)).tau(epoch, 6) for epoch in range(6)] == [0, 0, 0.5, 0.5, 1, 1]
    assert [CONSTANT.tau(epoch, 3) for epoch in range(3)] == [1, 1, 1]


@given(epochs=st.integers(1, 200), count=st.integers(1, 8))
def test_shares_differ_by_one_epoch_at_most_and_taus_never_fall(epochs, count):
    grid = Grid(tuple(np.linspace(1 / count, 1, count)))
    taus = [grid.tau(epoch, epochs) for epoch in range(epochs)]
    counts = [taus.count(tau) for tau in grid.taus]
    assert taus == sorted(taus)
    assert sum(counts) == epochs
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    "taus",
    [
        (),
        (0, 0.7, 0.5, 1),
        (0, 0.5, 0.5, 1),
        (-0.1, 1),
        (0, 0.5),
        (0, 1.5),
        (0, 2, 1),
        (float("nan"), 1),
        (0, float("nan"), 1),
    ],
)
def test_grid_that_does_not_rise_to_one_is_refused(taus):
    with pytest.raises(ValueError, match="taus must rise") as error:
        Grid(taus)
    assert str(list(taus)) in str(error.value)


def test_every_tau_needs_an_epoch():
    check_taus([0, 0.5, 1], 3)
    with pytest.raises(ValueError, match=r"epochs must be at least .*taus \(3\).*; got 2"):
        check_taus([0, 0.5, 1], 2)
    with pytest.raises(ValueError, match="taus must rise"):
        check_taus([0, 0.5], 2)


def test_even_schedule_rises_in_equal_steps():
    assert [Even().tau(epoch, 5) for epoch in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert Even().tau(0, 1) == 1


# --- schedules by name ---


def test_schedules_are_found_by_name():
    assert {name: schedule(name, (0, 1), 2) for name in SCHEDULES} == {
        "constant": CONSTANT,
        "grid": Grid((0, 1)),
        "even": Even(),
        "iso": IsoClassification(),
    }


def test_unknown_schedule_is_refused():
    says = "schedule must be one of constant, grid, even, iso; got 'cosine'"
    with pytest.raises(ValueError, match=says):
        schedule("cosine", (0, 1), 2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_says_whether_it_reads_the_grid(name):
    first, second = (SCHEDULES[name].make(taus) for taus in ((0.0, 1.0), (0.5, 1.0)))
    assert (first != second) == SCHEDULES[name].reads_taus


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "grid"])
def test_grid_is_not_checked_by_a_schedule_that_does_not_read_it(name):
    assert schedule(name, (1, 0), 1) == schedule(name, (0, 1), 2)


@pytest.mark.parametrize(("taus", "says"), [((0, 0.5), "taus"), ((0, 0.5, 1), "epochs")])
def test_grid_is_checked_by_the_schedule_that_reads_it(taus, says):
    with pytest.raises(ValueError, match=f"{says} must"):
        schedule("grid", taus, 2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_version_of_a_schedule_is_a_whole_number(name):
    assert type(SCHEDULES[name].version) is int
    assert SCHEDULES[name].version >= 1


# --- iso-classification ---


def walked(losses, start, schedule=IsoClassification()):
    """Taus of a training whose (source, target) losses after each epoch are given."""
    history = History(start_loss=start)
    for epoch, (source_loss, target_loss) in enumerate(losses):
        history.tau.append(schedule.tau(epoch, len(losses), history))
        history.source_loss.append(source_loss)
        history.val_loss.append(target_loss)
    return history.tau


loss = st.floats(0, 10)


@given(
    losses=st.lists(st.tuples(loss, loss), min_size=1, max_size=40),
    start=st.tuples(loss, loss),
    steps=st.integers(1, 30),
)
def test_iso_never_falls_and_ends_at_the_target_in_the_budget(losses, start, steps):
    taus = walked(losses, start, IsoClassification(steps))
    assert taus == sorted(taus)
    assert taus[0] >= 0
    assert taus[-1] == 1
    assert all(abs(tau * steps - round(tau * steps)) < 1e-9 for tau in taus)


def test_iso_waits_above_the_level_until_the_budget_forces_it():
    taus = walked([(2.0, 5.0)] * 9, start=(1.0, 5.0), schedule=IsoClassification(steps=4))
    assert taus == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1]


def test_iso_advances_at_once_below_the_level():
    assert walked([(0.0, 0.9)] * 3, start=(1.0, 5.0)) == [0, 1, 1]


def test_iso_advances_as_far_as_the_level_allows():
    # (1 - tau) 0.5 + tau 2.5 <= 1 up to tau = 1/4, then, the target's loss at 1.5, up to tau = 1/2
    losses = [(0.5, 2.5), (0.5, 1.5), *[(2.0, 2.0)] * 8]
    taus = walked(losses, start=(1.0, 4.0), schedule=IsoClassification(steps=8))
    assert taus[:4] == [0, 0.25, 0.5, 0.5]


def test_iso_tolerance_lets_the_loss_rise():
    twice = IsoClassification(tolerance=2.0)
    # 1 + 2 tau <= 2, in steps of 1/25
    assert walked([(1.0, 3.0)] * 3, start=(1.0, 3.0), schedule=twice)[0] == 0.48


def test_iso_goes_to_the_target_where_that_is_below_the_level_and_the_source_is_not():
    assert walked([(2.0, 0.5)] * 9, start=(1.0, 5.0))[1] == 1


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"steps": 0}, "steps .* got 0"),
        ({"steps": 2.5}, "steps .* got 2.5"),
        ({"steps": True}, "steps .* got True"),
        ({"tolerance": 0.9}, "tolerance .* got 0.9"),
        ({"tolerance": float("nan")}, "tolerance .* got nan"),
    ],
    ids=str,
)
def test_iso_needs_a_step_and_a_tolerance_of_one(choice, says):
    with pytest.raises(ValueError, match=says):
        IsoClassification(**choice)


@pytest.mark.parametrize("history", [None, History()], ids=["none", "not begun"])
def test_iso_needs_the_losses_before_the_transfer(history):
    with pytest.raises(ValueError, match="needs the losses before the transfer"):
        IsoClassification().tau(0, 5, history)
