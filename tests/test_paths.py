import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_array

from rtl_utils.couplings import Coupling, independent
from rtl_utils.paths import BLENDS, CONSTANT, SCHEDULES, Even, Grid, IsoClassification, Path, check_taus, level_advance, schedule, soft_labels
from rtl_utils.spurious import plant_ball
from rtl_utils.tasks import as_float
from rtl_utils.training import History

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
    for path in [*(Path(target, source, blend=blend) for blend in BETWEEN), Path(target, target, blend="symmetric")]:
        assert torch.equal(path.draw(tau, seed, epoch).target, order)


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


def test_even_schedule_rises_in_equal_steps():
    assert [Even().tau(epoch, 5) for epoch in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert Even().tau(0, 1) == 1


def test_schedules_are_found_by_name():
    assert {name: schedule(name, (0, 1), 2) for name in SCHEDULES} == {
        "constant": CONSTANT, "grid": Grid((0, 1)), "even": Even(), "iso": IsoClassification()
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"schedule must be one of constant, grid, even, iso; got 'cosine'"):
        schedule("cosine", (0, 1), 2)


# --- what blends and couplings do to a mini-batch ---------------------------------------------------------------------------------------


@given(seed=seeds)
def test_symmetric_mixes_images_and_labels_of_two_target_examples(pictures, seed):
    target = pictures("target", 2)
    draw, x, y = whole_epoch(Path(target, target, blend="symmetric", alpha=0.5), 1.0, seed)
    assert sorted(draw.source.tolist()) == sorted(draw.target.tolist()) == list(range(20))
    own, partners = (soft_labels(target, target.y_train[rows]) for rows in (draw.target, draw.source))
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
    assert w.var() == pytest.approx(variance, rel=5 * (2 / len(w)) ** 0.5)  # a Beta's tails are no heavier than a normal's


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
        y, kept * soft_labels(source, source.y_train[draw.source]) + (1 - kept) * soft_labels(target, target.y_train[draw.target])
    )
    assert torch.equal(x, x_plain)


@pytest.mark.parametrize("tau", [0.2, 0.6])
def test_partners_carry_the_moved_look_with_frequency_tau(pictures, tau):
    source, target = pictures("source", 1), pictures("target", 2)
    moved, count = plant_ball(source, "all", seed=0), 0
    for epoch in range(100):
        draw, x, _ = whole_epoch(Path(target, source, moved=moved), tau, 0, epoch)
        looks = [(1 - tau) * as_float(task.x_train[draw.source]) + tau * as_float(target.x_train[draw.target]) for task in (source, moved)]
        for row, was_moved in enumerate(draw.moved.tolist()):
            torch.testing.assert_close(x[row], looks[was_moved][row])
        count += int(draw.moved.sum())
    assert abs(count / 2000 - tau) < 5 * (tau * (1 - tau) / 2000) ** 0.5


def test_moved_look_is_absent_at_the_source(pictures):
    source = pictures("source", 1)
    draw, x, _ = whole_epoch(Path(pictures("target", 2), source, moved=plant_ball(source, "all", seed=0)), 0.0, seed=0)
    assert torch.equal(x, as_float(source.x_train[draw.source]))


@given(seed=seeds, tau=st.floats(0, 0.99), a_class=st.integers(4, 6))
def test_product_coupling_as_a_matrix_draws_what_none_draws(pictures, seed, tau, a_class):
    source, target = pictures("source", 1, a_class), pictures("target", 2)
    product = Coupling(csc_array(np.full((5 * a_class, 20), 1 / (100 * a_class))))
    drawn, plain = (Path(target, source, coupling=coupling).draw(tau, seed, 0) for coupling in (product, None))
    assert all(torch.equal(a, b) for a, b in zip(drawn[:3], plain[:3], strict=True))


def test_coupled_examples_come_together(pictures):
    source, target = pictures("source", 1), pictures("target", 2)
    partner = np.random.default_rng(0).permutation(20)  # of each target example
    coupling = Coupling(csc_array((np.full(20, 0.05), (partner, np.arange(20))), shape=(20, 20)))
    draw, x, _ = whole_epoch(Path(target, source, coupling=coupling), 0.5, seed=3)
    assert draw.source.tolist() == partner[draw.target].tolist()
    torch.testing.assert_close(x, 0.5 * as_float(source.x_train[draw.source]) + 0.5 * as_float(target.x_train[draw.target]))


# --- iso-classification -----------------------------------------------------------------------------------------------------------------


def walked(losses, start, schedule=IsoClassification()):
    """Taus of a training whose (source, target) losses after each epoch are given."""
    history = History(start_loss=start)
    for epoch, (source_loss, target_loss) in enumerate(losses):
        history.tau.append(schedule.tau(epoch, len(losses), history))
        history.source_loss.append(source_loss)
        history.val_loss.append(target_loss)
    return history.tau


loss = st.floats(0, 10)


@given(losses=st.lists(st.tuples(loss, loss), min_size=1, max_size=40), start=st.tuples(loss, loss), steps=st.integers(1, 30))
def test_iso_never_falls_and_ends_at_the_target_in_the_budget(losses, start, steps):
    taus = walked(losses, start, IsoClassification(steps))
    assert taus == sorted(taus) and taus[0] >= 0 and taus[-1] == 1
    assert all(abs(tau * steps - round(tau * steps)) < 1e-9 for tau in taus)


def test_iso_waits_above_the_level_until_the_budget_forces_it():
    assert walked([(2.0, 5.0)] * 9, start=(1.0, 5.0), schedule=IsoClassification(steps=4)) == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1]


def test_iso_advances_at_once_below_the_level():
    assert walked([(0.0, 0.9)] * 3, start=(1.0, 5.0)) == [0, 1, 1]


def test_iso_advances_as_far_as_the_level_allows():
    # (1 - tau) 0.5 + tau 2.5 <= 1 up to tau = 1/4, then, the target's loss at 1.5, up to tau = 1/2
    assert walked([(0.5, 2.5), (0.5, 1.5), *[(2.0, 2.0)] * 8], start=(1.0, 4.0), schedule=IsoClassification(steps=8))[:4] == [0, 0.25, 0.5, 0.5]


def test_iso_tolerance_lets_the_loss_rise():
    assert walked([(1.0, 3.0)] * 3, start=(1.0, 3.0), schedule=IsoClassification(tolerance=2.0))[0] == 0.48  # 1 + 2 tau <= 2, in steps of 1/25


def test_iso_goes_to_the_target_where_that_is_below_the_level_and_the_source_is_not():
    assert walked([(2.0, 0.5)] * 9, start=(1.0, 5.0))[1] == 1


def test_iso_needs_a_step_and_a_tolerance_of_one():
    for choice, says in (({"steps": 0}, "steps .* got 0"), ({"steps": 2.5}, "steps .* got 2.5"), ({"tolerance": 0.9}, "tolerance .* got 0.9")):
        with pytest.raises(ValueError, match=says):
            IsoClassification(**choice)


def test_level_advance_holds_the_loss_level_on_a_convex_example():
    """Gradient descent of a linear softmax classifier from one pair of overlapping clusters to another, tau moved by the equation."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    centres = {"source": torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), "target": torch.tensor([[0.0, -1.0], [0.0, 1.0]])}
    x = {end: centre[y] + torch.randn(400, 2, generator=draw) for end, centre in centres.items()}
    net, lr, tau, walk = torch.nn.Linear(2, 2), 0.02, 0.0, []
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.zeros_(net.bias)

    def descend(mixed):
        losses = [torch.nn.functional.cross_entropy(net(x[end]), y) for end in ("source", "target")]
        gradients = torch.autograd.grad((1 - mixed) * losses[0] + mixed * losses[1], list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), gradients, strict=True):
                p -= lr * g
        return *(float(v.detach()) for v in losses), float(torch.cat([g.flatten() for g in gradients]).norm())

    for _ in range(20):  # not to the source's optimum: a level must be left to hold
        descend(0.0)
    while tau < 1:
        source_loss, target_loss, norm = descend(tau)
        walk.append((1 - tau) * source_loss + tau * target_loss)
        tau += level_advance(lr, norm, source_loss, target_loss)
        assert len(walk) < 10_000
    assert len(walk) > 100 and all(abs(value / walk[0] - 1) < 0.02 for value in walk)


def test_level_advance_is_free_where_the_target_is_easier():
    assert level_advance(0.1, 2.0, source_loss=1.0, target_loss=3.0) == pytest.approx(0.2)
    assert level_advance(0.1, 2.0, source_loss=1.0, target_loss=1.0) == np.inf


# --- what is refused --------------------------------------------------------------------------------------------------------------------


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
        ({"coupling": Coupling(csc_array(np.full((20, 30), 1 / 600)))}, r"\(20, 20\); got \(20, 30\)"),
    ],
    ids=str,
)
def test_path_refuses_what_does_not_fit(pictures, choice, says):
    with pytest.raises(ValueError, match=says):
        Path(pictures("target"), pictures("source"), **choice)


def test_path_refuses_a_moved_source_of_other_examples(pictures):
    source, target = pictures("source"), pictures("target")
    for path in ({"source": source, "moved": pictures("source", a_class=6)}, {"moved": source}):
        with pytest.raises(ValueError, match="moved must hold the source's examples"):
            Path(target, **path)


def test_path_without_a_source_refuses_a_coupling(pictures):
    with pytest.raises(ValueError, match=r"\(0, 20\); got \(20, 20\)"):
        Path(pictures(), coupling=Coupling(csc_array(np.full((20, 20), 1 / 400))))
