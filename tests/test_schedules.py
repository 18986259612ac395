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
    """History of a training whose (source, held-out target) losses after each epoch are given."""
    history = History(start_loss=start)
    for epoch, (source_loss, target_loss) in enumerate(losses):
        history.tau.append(schedule.tau(epoch, len(losses), history))
        history.source_loss.append(source_loss)
        history.target_loss.append(target_loss)
    return history


loss = st.floats(0, 10)


@given(
    losses=st.lists(st.tuples(loss, loss), min_size=1, max_size=60),
    start=loss,
    steps=st.integers(1, 30),
)
def test_iso_rises_step_by_step_and_ends_at_the_target_in_the_budget(losses, start, steps):
    taus = walked(losses, start, IsoClassification(steps)).tau
    values = max(1, min(steps, len(losses) // 2))
    visited = sorted(set(taus))
    assert taus == sorted(taus)
    assert visited == [(k + 1) / values for k in range(values)]  # from 1 / K on, none left out
    assert all(taus.count(tau) <= len(losses) // values for tau in visited[:-1])


def test_iso_begins_between_source_and_target():
    """At tau = 0 the source alone is trained, and nothing would ever lower the target's loss."""
    assert walked([(9.0, 9.0)] * 40, start=1.0).tau[0] == 0.1


def test_iso_moves_one_step_per_epoch_where_the_loss_allows_it():
    assert walked([(0.9, 1.0)] * 20, start=1.0).tau == [
        *(k / 10 for k in range(1, 11)),
        *[1.0] * 10,
    ]


def test_iso_asks_for_the_level_at_the_present_tau_and_not_at_the_next():
    # (1 - tau) 0.8 + tau 1.5 is 0.975 at tau = 1/4 and 1.15 at tau = 1/2
    taus = walked([(0.8, 1.5)] * 12, start=1.0, schedule=IsoClassification(steps=4)).tau
    assert taus[:5] == [0.25, 0.5, 0.5, 0.5, 0.75]


def test_iso_waits_above_the_level_until_the_cap_forces_it():
    taus = walked([(2.0, 5.0)] * 9, start=1.0, schedule=IsoClassification(steps=4)).tau
    assert taus == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1, 1]


def test_iso_waits_only_until_the_loss_has_come_down():
    losses = [(2.0, 2.0), (2.0, 2.0), *[(1.0, 1.0)] * 10]
    taus = walked(losses, start=1.0, schedule=IsoClassification(steps=3)).tau
    assert taus[:5] == [1 / 3, 1 / 3, 1 / 3, 2 / 3, 1]


def test_iso_has_fewer_steps_where_each_could_not_have_two_epochs():
    for epochs, values in ((1, 1), (2, 1), (5, 2), (19, 9), (20, 10), (60, 10)):
        taus = walked([(9.0, 9.0)] * epochs, start=1.0).tau
        assert len(set(taus)) == values
        assert taus[0] == 1 / values


def test_iso_tolerance_raises_the_level():
    losses = [(1.5, 1.5)] * 20
    strict, mild = (walked(losses, 1.0, IsoClassification(tolerance=t)).tau for t in (1.0, 2.0))
    assert strict[1] == 0.1
    assert mild[1] == 0.2


def test_capped_share_is_that_of_the_moves_above_the_level():
    four = IsoClassification(steps=4)
    above, below = (5.0, 5.0), (0.5, 0.5)
    shares = {
        "all": [above] * 8,
        "none": [below] * 8,
        # two epochs at 1/4, forced; then one each at 1/2 and 3/4
        "a third": [above, above, *[below] * 6],
    }
    found = {name: four.capped_share(walked(losses, 1.0, four)) for name, losses in shares.items()}
    assert found == {"all": 1.0, "none": 0.0, "a third": pytest.approx(1 / 3)}
    assert four.capped_share(walked([above], 1.0, four)) == 0.0  # it never moved


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"steps": 0}, "steps .* got 0"),
        ({"steps": 2.5}, "steps .* got 2.5"),
        ({"steps": True}, "steps .* got True"),
        ({"tolerance": 0}, "tolerance .* got 0"),
        ({"tolerance": -1.0}, "tolerance .* got -1.0"),
        ({"tolerance": float("nan")}, "tolerance .* got nan"),
    ],
    ids=str,
)
def test_iso_needs_a_step_and_a_tolerance_above_0(choice, says):
    with pytest.raises(ValueError, match=says):
        IsoClassification(**choice)


@pytest.mark.parametrize("history", [None, History()], ids=["none", "not begun"])
def test_iso_needs_the_losses_before_the_transfer(history):
    with pytest.raises(ValueError, match="needs the losses before the transfer"):
        IsoClassification().tau(0, 5, history)
