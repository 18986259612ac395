import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rtl_utils.paths import BLENDS, CONSTANT, Grid, Path, check_taus, independent, soft_labels
from rtl_utils.tasks import as_float

seeds, blends, taus = st.integers(0, 2**32), st.sampled_from(sorted(BLENDS)), st.floats(0, 1)


def whole_epoch(path, tau, seed, epoch=0):
    """The draw of one epoch, its inputs and labels."""
    draw = path.draw(tau, seed, epoch)
    return draw, *path.batch(draw, slice(None))


@given(seed=seeds, blend=blends)
def test_tau_zero_is_the_source(pictures, seed, blend):
    source, target = pictures("source", 1), pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, source, blend=blend), 0.0, seed)
    assert torch.equal(x, as_float(source.x_train[draw.source]))
    assert torch.equal(y, soft_labels(source, source.y_train[draw.source]))


@given(seed=seeds, blend=blends)
def test_tau_one_is_the_target_alone(pictures, seed, blend):
    source, target = pictures("source", 1), pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, source, blend=blend), 1.0, seed)
    _, x_alone, y_alone = whole_epoch(Path(target), 1.0, seed)
    assert torch.equal(x, as_float(target.x_train[draw.target])) and torch.equal(x, x_alone)
    assert torch.equal(y, soft_labels(target, target.y_train[draw.target])) and torch.equal(y, y_alone)


@given(seed=seeds, blend=blends, tau=taus)
def test_labels_are_probabilities_at_any_tau(pictures, seed, blend, tau):
    _, _, y = whole_epoch(Path(pictures("target", 2), pictures("source", 1), blend=blend), tau, seed)
    assert (y >= 0).all()
    torch.testing.assert_close(y.sum(1), torch.ones(len(y)))


@given(seed=seeds, tau=taus)
def test_mixup_is_the_convex_combination(pictures, seed, tau):
    source, target = pictures("source", 1), pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, source), tau, seed)
    if draw.source is None:
        assert tau == 1
        return
    torch.testing.assert_close(x, (1 - tau) * as_float(source.x_train[draw.source]) + tau * as_float(target.x_train[draw.target]))
    labels = [soft_labels(task, task.y_train[rows]) for task, rows in ((source, draw.source), (target, draw.target))]
    torch.testing.assert_close(y, (1 - tau) * labels[0] + tau * labels[1])


@given(seed=seeds, tau=taus)
def test_mixture_takes_each_example_from_one_task(pictures, seed, tau):
    source, target = pictures("source", 1), pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, source, blend="mixture"), tau, seed)
    for row in range(len(x)):
        ends = [target, draw.target] if draw.weight is None or draw.weight[row] == 1 else [source, draw.source]
        assert torch.equal(x[row], as_float(ends[0].x_train[ends[1][row]]))
    assert ((y == 0) | (y == 1)).all()


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.75])
def test_mixture_picks_the_target_with_frequency_tau(pictures, tau):
    path = Path(pictures("target", 2), pictures("source", 1), blend="mixture")
    picked = torch.cat([path.draw(tau, seed=0, epoch=epoch).weight for epoch in range(200)])
    assert abs(picked.mean() - tau) < 5 * (tau * (1 - tau) / len(picked)) ** 0.5  # five binomial standard errors


@given(seed=seeds, tau=taus, epoch=st.integers(0, 1000))
def test_all_methods_see_the_target_in_one_order(pictures, seed, tau, epoch):
    source, target = pictures("source", 1), pictures("target", 2)
    order = Path(target).draw(1.0, seed, epoch).target
    assert sorted(order.tolist()) == list(range(len(target.y_train)))
    for blend in BLENDS:
        assert torch.equal(Path(target, source, blend=blend).draw(tau, seed, epoch).target, order)


def test_order_changes_with_epoch_and_seed(pictures):
    path = Path(pictures())
    orders = {tuple(path.draw(1.0, seed, epoch).target.tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(seed=seeds, epoch=st.integers(0, 1000))
def test_each_source_example_comes_once_an_epoch_where_sizes_agree(pictures, seed, epoch):
    draw = Path(pictures("target", 2), pictures("source", 1)).draw(0.5, seed, epoch)
    assert sorted(draw.source.tolist()) == list(range(20))


def test_partners_do_not_depend_on_the_target_example(pictures):
    path = Path(pictures("target", 2), pictures("source", 1))
    counts = np.zeros((20, 20))
    for epoch in range(2000):
        draw = path.draw(0.5, seed=0, epoch=epoch)
        counts[draw.target, draw.source] += 1
    assert abs(counts - 100).max() < 60  # six standard deviations of a binomial with mean 100


@given(n_source=st.integers(1, 500), uniform=st.floats(0, 1, exclude_max=True))
def test_partner_is_a_source_example(n_source, uniform):
    assert 0 <= independent(np.array([0]), np.array([uniform]), n_source)[0] < n_source


def test_an_epoch_has_the_targets_size_at_every_tau(pictures):
    small, large = pictures("small", a_class=4), pictures("large", a_class=6)
    for tau in (0, 0.5, 1):
        assert len(Path(small, large)) == len(whole_epoch(Path(small, large), tau, 0)[1]) == 20
        assert len(Path(large, small)) == len(whole_epoch(Path(large, small), tau, 0)[1]) == 30


def test_regression_blends_responses(table):
    source, target = table("source", 1), table("target", 2)
    draw, x, y = whole_epoch(Path(target, source), 0.25, seed=3)
    torch.testing.assert_close(y, 0.75 * source.y_train[draw.source] + 0.25 * target.y_train[draw.target])
    torch.testing.assert_close(x.sum(1, keepdim=True), y)  # the tasks are linear, so any mixture of them is


def test_sample_gives_n_examples_of_p_tau(pictures):
    x, y = Path(pictures("target", 2), pictures("source", 1)).sample(0.5, 7, seed=0)
    assert x.shape == (7, 3, 16, 16) and y.shape == (7, 5)


def test_grid_gives_each_tau_an_equal_share_of_the_epochs():
    assert [Grid((0, 0.5, 1)).tau(epoch, 6) for epoch in range(6)] == [0, 0, 0.5, 0.5, 1, 1]
    assert [CONSTANT.tau(epoch, 3) for epoch in range(3)] == [1, 1, 1]


@given(epochs=st.integers(1, 200), stations=st.integers(1, 8))
def test_shares_differ_by_one_epoch_at_most_and_taus_never_fall(epochs, stations):
    grid = Grid(tuple(np.linspace(1 / stations, 1, stations)))
    taus = [grid.tau(epoch, epochs) for epoch in range(epochs)]
    counts = [taus.count(tau) for tau in grid.taus]
    assert taus == sorted(taus) and sum(counts) == epochs and max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    "taus", [(), (0, 0.7, 0.5, 1), (0, 0.5, 0.5, 1), (-0.1, 1), (0, 0.5), (0, 1.5), (0, 2, 1), (float("nan"), 1), (0, float("nan"), 1)]
)
def test_grid_that_does_not_rise_to_one_is_refused(taus):
    with pytest.raises(ValueError, match="taus must rise") as error:
        Grid(taus)
    assert str(list(taus)) in str(error.value)


def test_fewer_epochs_than_taus_are_refused():
    assert check_taus([0, 0.5, 1], 3) == Grid((0, 0.5, 1))
    with pytest.raises(ValueError, match=r"epochs must be at least .*3.*; got 2"):
        check_taus([0, 0.5, 1], 2)


def test_path_refuses_ends_that_do_not_fit(pictures, table):
    target = pictures("target")
    for source in (target, pictures("target", seed=9)):
        with pytest.raises(ValueError, match="source and target must differ; both are 'target'"):
            Path(target, source)
    with pytest.raises(ValueError, match="must share input shape"):
        Path(target, table("source"))


@pytest.mark.parametrize("choice", [{"blend": "cutmix"}, {"coupling": "sinkhorn"}])
def test_path_refuses_unknown_choices(pictures, choice):
    ((what, name),) = choice.items()
    with pytest.raises(ValueError, match=f"{what} must be one of .*{name}"):
        Path(pictures("target"), pictures("source"), **choice)
