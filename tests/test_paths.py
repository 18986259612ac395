import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_array

from rtl_utils.couplings import Coupling, independent
from rtl_utils.data import Shortcut, as_float, plant, soft_labels
from rtl_utils.paths import BLENDS, Blend, Path

BETWEEN = sorted(set(BLENDS) - {"symmetric"})  # blends of two tasks
seeds, blends, taus = st.integers(0, 2**32), st.sampled_from(BETWEEN), st.floats(0, 1)


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
    assert torch.equal(x, as_float(target.x_train[draw.target]))
    assert torch.equal(x, x_alone)
    assert torch.equal(y, soft_labels(target, target.y_train[draw.target]))
    assert torch.equal(y, y_alone)


@given(seed=seeds, blend=blends, tau=taus)
def test_labels_are_probabilities_at_any_tau(pictures, seed, blend, tau):
    _, _, y = whole_epoch(
        Path(pictures("target", 2), pictures("source", 1), blend=blend), tau, seed
    )
    assert (y >= 0).all()
    torch.testing.assert_close(y.sum(1), torch.ones(len(y)))


@given(seed=seeds, tau=taus)
def test_mixup_is_the_convex_combination(pictures, seed, tau):
    source, target = pictures("source", 1), pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, source), tau, seed)
    if draw.source is None:
        assert tau == 1
        return
    pairs = ((source, draw.source), (target, draw.target))
    ends = [as_float(task.x_train[rows]) for task, rows in pairs]
    labels = [soft_labels(task, task.y_train[rows]) for task, rows in pairs]
    torch.testing.assert_close(x, (1 - tau) * ends[0] + tau * ends[1])
    torch.testing.assert_close(y, (1 - tau) * labels[0] + tau * labels[1])


@given(seed=seeds, tau=taus)
def test_mixture_takes_each_example_from_one_task(pictures, seed, tau):
    source, target = pictures("source", 1), pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, source, blend="mixture"), tau, seed)
    for row in range(len(x)):
        ends = (
            [target, draw.target]
            if draw.weight is None or draw.weight[row] == 1
            else [source, draw.source]
        )
        assert torch.equal(x[row], as_float(ends[0].x_train[ends[1][row]]))
    assert ((y == 0) | (y == 1)).all()


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.75])
def test_mixture_picks_the_target_with_frequency_tau(pictures, tau):
    path = Path(pictures("target", 2), pictures("source", 1), blend="mixture")
    picked = torch.cat([path.draw(tau, seed=0, epoch=epoch).weight for epoch in range(200)])
    standard_error = (tau * (1 - tau) / len(picked)) ** 0.5
    assert abs(picked.mean() - tau) < 5 * standard_error


@given(seed=seeds, tau=taus, epoch=st.integers(0, 1000))
def test_all_methods_see_the_target_in_one_order(pictures, seed, tau, epoch):
    source, target = pictures("source", 1), pictures("target", 2)
    order = Path(target).draw(1.0, seed, epoch).target
    assert sorted(order.tolist()) == list(range(len(target.y_train)))
    for path in [
        *(Path(target, source, blend=blend) for blend in BETWEEN),
        Path(target, target, blend="symmetric"),
    ]:
        assert torch.equal(path.draw(tau, seed, epoch).target, order)


def test_order_changes_with_epoch_and_seed(pictures):
    path = Path(pictures())
    orders = {
        tuple(path.draw(1.0, seed, epoch).target.tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@given(seed=seeds, epoch=st.integers(0, 1000))
def test_each_source_example_comes_once_per_epoch_where_sizes_agree(pictures, seed, epoch):
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
    small, large = pictures("small", per_class=4), pictures("large", per_class=6)
    for tau in (0, 0.5, 1):
        assert len(Path(small, large)) == len(whole_epoch(Path(small, large), tau, 0)[1]) == 20
        assert len(Path(large, small)) == len(whole_epoch(Path(large, small), tau, 0)[1]) == 30


def test_regression_blends_responses(table):
    source, target = table("source", 1), table("target", 2)
    draw, x, y = whole_epoch(Path(target, source), 0.25, seed=3)
    torch.testing.assert_close(
        y, 0.75 * source.y_train[draw.source] + 0.25 * target.y_train[draw.target]
    )
    # the tasks are linear, so any mixture of them is
    torch.testing.assert_close(x.sum(1, keepdim=True), y)


def test_sample_gives_n_examples_of_p_tau(pictures):
    x, y = Path(pictures("target", 2), pictures("source", 1)).sample(0.5, 7, seed=0)
    assert x.shape == (7, 3, 16, 16)
    assert y.shape == (7, 5)


# --- what blends and couplings do to a mini-batch ---


@given(seed=seeds)
def test_symmetric_mixes_images_and_labels_of_two_target_examples(pictures, seed):
    target = pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, target, blend="symmetric", alpha=0.5), 1.0, seed)
    assert sorted(draw.source.tolist()) == sorted(draw.target.tolist()) == list(range(20))
    own, partners = (
        soft_labels(target, target.y_train[rows]) for rows in (draw.target, draw.source)
    )
    w = draw.weight[:, None]
    torch.testing.assert_close(y, w * own + (1 - w) * partners)
    images = [as_float(target.x_train[rows]).flatten(1) for rows in (draw.target, draw.source)]
    torch.testing.assert_close(x.flatten(1), w * images[0] + (1 - w) * images[1])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_symmetric_weights_have_the_spread_of_their_beta(pictures, alpha):
    path = Path(pictures(), pictures(), blend="symmetric", alpha=alpha)
    w = np.concatenate([path.draw(1.0, seed=0, epoch=epoch).weight.numpy() for epoch in range(500)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(w.mean() - 0.5) < 5 * (variance / len(w)) ** 0.5
    # a Beta's tails are no heavier than a normal's
    assert w.var() == pytest.approx(variance, rel=5 * (2 / len(w)) ** 0.5)


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.8])
def test_annealed_weights_have_the_mean_and_spread_of_their_beta(pictures, tau):
    path = Path(pictures("target", 2), pictures("source", 1), blend="annealed")
    w = np.concatenate([path.draw(tau, seed=0, epoch=epoch).weight.numpy() for epoch in range(500)])
    variance = tau * (1 - tau) / 2
    assert abs(w.mean() - tau) < 5 * (variance / len(w)) ** 0.5
    assert w.var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("tau", [0.25, 0.5])
def test_fade_changes_labels_over_faster_than_images(pictures, tau):
    source, target = pictures("source", 1), pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, source, fade=3.0), tau, seed=0)
    _, x_plain, _ = whole_epoch(Path(target, source), tau, seed=0)
    kept = (1 - tau) ** 3
    torch.testing.assert_close(
        y,
        kept * soft_labels(source, source.y_train[draw.source])
        + (1 - kept) * soft_labels(target, target.y_train[draw.target]),
    )
    assert torch.equal(x, x_plain)


@pytest.mark.parametrize("tau", [0.2, 0.6])
def test_partners_come_from_the_other_source_with_frequency_tau(pictures, tau):
    source, target = pictures("source", 1), pictures("target", 2)
    other = plant(source, Shortcut(), seed=0)
    path = Path(target, source, other_source=other)
    count = 0
    for epoch in range(100):
        draw, x, _ = whole_epoch(path, tau, 0, epoch)
        ends = as_float(target.x_train[draw.target])
        appearances = [
            (1 - tau) * as_float(task.x_train[draw.source]) + tau * ends for task in (source, other)
        ]
        for row, from_the_other in enumerate(draw.other.tolist()):
            torch.testing.assert_close(x[row], appearances[from_the_other][row])
        count += int(draw.other.sum())
    assert abs(count / 2000 - tau) < 5 * (tau * (1 - tau) / 2000) ** 0.5


def test_other_source_is_absent_at_the_source(pictures):
    source = pictures("source", 1)
    path = Path(pictures("target", 2), source, other_source=plant(source, Shortcut(), seed=0))
    draw, x, _ = whole_epoch(path, 0.0, seed=0)
    assert torch.equal(x, as_float(source.x_train[draw.source]))


@given(seed=seeds, tau=st.floats(0, 0.99), per_class=st.integers(4, 6))
def test_product_coupling_as_a_matrix_draws_what_none_draws(pictures, seed, tau, per_class):
    source, target = pictures("source", 1, per_class), pictures("target", 2)
    product = Coupling(csc_array(np.full((5 * per_class, 20), 1 / (100 * per_class))))
    drawn, plain = (
        Path(target, source, coupling=coupling).draw(tau, seed, 0) for coupling in (product, None)
    )
    assert all(torch.equal(a, b) for a, b in zip(drawn[:3], plain[:3], strict=True))


def test_coupled_examples_come_together(pictures):
    source, target = pictures("source", 1), pictures("target", 2)
    partner = np.random.default_rng(0).permutation(20)  # of each target example
    coupling = Coupling(csc_array((np.full(20, 0.05), (partner, np.arange(20))), shape=(20, 20)))
    draw, x, _ = whole_epoch(Path(target, source, coupling=coupling), 0.5, seed=3)
    assert draw.source.tolist() == partner[draw.target].tolist()
    torch.testing.assert_close(
        x, 0.5 * as_float(source.x_train[draw.source]) + 0.5 * as_float(target.x_train[draw.target])
    )


# --- what is refused ---


def test_path_refuses_ends_that_do_not_fit(pictures, table):
    target = pictures("target")
    for source in (target, pictures("target", seed=9)):
        with pytest.raises(ValueError, match="source and target must differ; both are 'target'"):
            Path(target, source)
    with pytest.raises(ValueError, match="must share input shape"):
        Path(target, table("source"))


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"blend": "cutmix"}, "blend must be one of mixup, .*got 'cutmix'"),
        ({"blend": "symmetric"}, "'symmetric' mixes a task with itself; got 'source' and 'target'"),
        ({"alpha": 0}, "alpha must be above 0; got 0"),
        ({"alpha": -1.5}, "alpha must be above 0; got -1.5"),
        ({"alpha": float("nan")}, "alpha must be above 0; got nan"),
        ({"fade": 0.0}, "fade must be above 0; got 0.0"),
        ({"fade": -3}, "fade must be above 0; got -3"),
        (
            {"coupling": Coupling(csc_array(np.full((20, 30), 1 / 600)))},
            r"\(20, 20\); got \(20, 30\)",
        ),
    ],
    ids=str,
)
def test_path_refuses_what_does_not_fit(pictures, choice, says):
    with pytest.raises(ValueError, match=says):
        Path(pictures("target"), pictures("source"), **choice)


def test_path_refuses_another_source_of_other_examples(pictures):
    source, target = pictures("source"), pictures("target")
    others = {"source": source, "other_source": pictures("source", per_class=6)}
    for path in (others, {"other_source": source}):
        with pytest.raises(ValueError, match="other_source must hold the source's examples"):
            Path(target, **path)


@pytest.mark.parametrize("n", [0, 21, -1])
def test_sample_larger_than_the_target_is_refused(pictures, n):
    path = Path(pictures("target", 2), pictures("source", 1))
    with pytest.raises(ValueError, match=f"n must lie between 1 and 20.*got {n}"):
        path.sample(0.5, n, seed=0)


def test_path_without_a_source_refuses_a_coupling(pictures):
    with pytest.raises(ValueError, match=r"\(0, 20\); got \(20, 20\)"):
        Path(pictures(), coupling=Coupling(csc_array(np.full((20, 20), 1 / 400))))


# --- the table of blends ---


@pytest.mark.parametrize("name", BLENDS)
@given(tau=taus, seed=seeds, alpha=st.floats(0.1, 10))
def test_weights_of_every_blend_lie_between_0_and_1(name, tau, seed, alpha):
    weights = BLENDS[name].weights(tau, np.random.default_rng(seed), 50, alpha)
    assert weights.shape == (50,)
    assert ((weights >= 0) & (weights <= 1)).all()


def test_new_blend_of_one_record_is_drawn(pictures, monkeypatch):
    halves = Blend(lambda tau, rng, n, alpha: np.full(n, 0.5))
    monkeypatch.setitem(BLENDS, "halves", halves)
    source, target = pictures("source", 1), pictures("target", 2)
    for tau in (0.0, 0.3, 1.0):
        draw, x, _ = whole_epoch(Path(target, source, blend="halves"), tau, seed=0)
        ends = as_float(source.x_train[draw.source]), as_float(target.x_train[draw.target])
        torch.testing.assert_close(x, (ends[0] + ends[1]) / 2)
