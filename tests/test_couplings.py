import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, linear_sum_assignment, linprog, minimize
from scipy.sparse import csc_array

from rtl_utils.couplings import (
    Block,
    Coupling,
    block_transport,
    cosine_cost,
    joined,
    proximal,
    proximal_quadratic,
    transport,
)

sizes, seeds = st.integers(1, 12), st.integers(0, 2**32)


def random_cost(seed, *shape):
    return np.random.default_rng(seed).random(shape)


def spent(matrix, cost):
    """<Gamma, cost>."""
    return float((matrix * cost).sum())


def dense(coupling):
    return coupling.matrix.toarray()


def assert_uniform(matrix):
    assert matrix.min() >= 0
    for axis, n in enumerate(matrix.shape):
        np.testing.assert_allclose(matrix.sum(1 - axis), 1 / n, atol=1e-9)


@st.composite
def divided(draw, smoothing=0.0):
    """A cost, a block size that divides its targets, and the blocks."""
    block, count, n_source, seed = (
        draw(st.integers(1, 5)),
        draw(st.integers(1, 5)),
        draw(sizes),
        draw(seeds),
    )
    cost = random_cost(seed, n_source, block * count)
    return cost, block, block_transport(cost, block, seed, smoothing)


# --- transport ---


@given(n_source=sizes, n_target=sizes, seed=seeds)
def test_transport_has_uniform_marginals_and_costs_no_more_than_the_independent_coupling(
    n_source, n_target, seed
):
    cost = random_cost(seed, n_source, n_target)
    matrix = dense(transport(cost))
    assert_uniform(matrix)
    assert spent(matrix, cost) <= cost.mean() + 1e-12


@given(n=sizes, seed=seeds)
def test_transport_of_equal_sizes_is_the_best_assignment(n, seed):
    cost = random_cost(seed, n, n)
    rows, columns = linear_sum_assignment(cost)
    best = np.zeros((n, n))
    best[rows, columns] = 1 / n
    np.testing.assert_allclose(dense(transport(cost)), best, atol=1e-12)


def test_transport_splits_a_source_between_more_targets():
    np.testing.assert_allclose(
        dense(transport(np.array([[0.0, 0.0, 9.0], [9.0, 9.0, 0.0]]))),
        [[1 / 3, 1 / 6, 0], [0, 1 / 6, 1 / 3]],
        atol=1e-12,
    )


def test_cosine_cost_is_one_minus_the_cosine():
    source, target = np.array([[1.0, 0], [2, 2], [0, 0]]), np.array([[3.0, 0], [0, 1], [-1, 0]])
    half = 0.5**0.5
    np.testing.assert_allclose(
        cosine_cost(source, target),
        [[0, 1, 2], [1 - half, 1 - half, 1 + half], [1, 1, 1]],
        atol=1e-12,
    )
    with pytest.raises(ValueError, match="one width; got 2 and 3"):
        cosine_cost(source, np.zeros((1, 3)))


# --- blocks ---


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_blocks_make_a_coupling_with_uniform_marginals(smoothing):
    @given(divided(smoothing))
    def check(case):
        cost, block, blocks = case
        assert_uniform(dense(joined(blocks, cost.shape)))
        assert [len(b.target) for b in blocks] == [block] * (cost.shape[1] // block)
        assert sorted(np.concatenate([b.target for b in blocks])) == list(range(cost.shape[1]))
        # masses inside a block: a target's share each, a source's split where it lies in two
        for b in blocks:
            np.testing.assert_allclose(b.marginals[1], 1 / cost.shape[1], atol=1e-9)
            assert (b.marginals[0] > 0).all()
            assert (b.marginals[0] <= 1 / cost.shape[0] + 1e-9).all()

    check()


def test_source_at_a_border_lies_in_both_blocks():
    cost = np.array([[0.0, 0, 9, 9], [1, 1, 1, 1], [9, 9, 0, 0]])
    blocks = block_transport(cost, 2, seed=0)
    held = sorted(
        (int(source), round(float(mass), 12))
        for b in blocks
        for source, mass in zip(b.source, b.marginals[0], strict=True)
    )
    third, sixth = round(1 / 3, 12), round(1 / 6, 12)
    (border,) = {source for source, mass in held if mass == sixth}
    assert held == sorted(
        [(border, sixth), (border, sixth), *((k, third) for k in range(3) if k != border)]
    )


@given(n_source=sizes, n_target=sizes, seed=seeds)
def test_one_block_of_all_is_transport(n_source, n_target, seed):
    cost = random_cost(seed, n_source, n_target)
    (block,) = block_transport(cost, n_target, seed)
    np.testing.assert_allclose(
        dense(joined([block], cost.shape)), dense(transport(cost)), atol=1e-12
    )


@given(block=st.integers(1, 5), count=st.integers(1, 4), seed=seeds)
def test_blocks_of_equal_sizes_cost_what_the_whole_costs(block, count, seed):
    cost = random_cost(seed, block * count, block * count)
    blocks = joined(block_transport(cost, block, seed), cost.shape)
    assert spent(dense(blocks), cost) == pytest.approx(
        spent(dense(transport(cost)), cost), abs=1e-12
    )


def test_blocks_are_dealt_by_the_seed():
    cost = random_cost(0, 20, 20)
    dealt = [{tuple(b.target) for b in block_transport(cost, 5, seed)} for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2]


@pytest.mark.parametrize("block", [0, -5, 3, 40, 2.5, True, "5"])
def test_block_that_does_not_divide_the_targets_is_refused(block):
    with pytest.raises(
        ValueError, match=f"block must divide the 20 training examples of the target; got {block!r}"
    ):
        block_transport(np.zeros((20, 20)), block, seed=0)


# --- partners ---


@given(n_source=sizes, n_target=sizes, seed=seeds)
def test_partners_are_drawn_as_often_as_the_coupling_says(n_source, n_target, seed):
    blocks = block_transport(random_cost(seed, n_source, n_target), n_target, seed, smoothing=0.3)
    matrix, even = dense(joined(blocks, (n_source, n_target))), (np.arange(1000) + 0.5) / 1000
    for j in range(n_target):
        drawn = joined(blocks, matrix.shape).partners(np.full(1000, j), even)
        frequency = np.bincount(drawn, minlength=n_source) / 1000
        np.testing.assert_allclose(frequency, matrix[:, j] * n_target, atol=2e-3)


@given(
    n_source=sizes,
    n_target=sizes,
    seed=seeds,
    uniform=st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53),
)
@example(n_source=12, n_target=8, seed=197, uniform=0.0)  # a column's sums round up past its end
def test_partner_shares_mass_with_its_target_whatever_the_number(n_source, n_target, seed, uniform):
    coupling, target = transport(random_cost(seed, n_source, n_target)), np.arange(n_target)
    assert (
        dense(coupling)[coupling.partners(target, np.full(n_target, uniform)), target] > 0
    ).all()


# --- proximal steps ---


def random_block(seed, a, b):
    """A block with no empty pair, and a cost for it; its sources hold different masses."""
    rng = np.random.default_rng(seed)
    return Block(np.arange(a), np.arange(b), rng.uniform(0.2, 1, (a, b)) / 40), rng.random((a, b))


def kl(p, q):
    return float((p * np.log(p / q)).sum())


@given(
    seed=seeds, a=st.integers(2, 4), b=st.integers(2, 4), weight=st.sampled_from([0.1, 0.5, 2.0])
)
def test_proximal_step_is_the_best_of_its_marginals(seed, a, b, weight):
    block, cost = random_block(seed, a, b)
    whole, moved = block.mass.sum(), proximal(block, cost, weight)

    def objective(mass):
        return (spent(mass, cost) + weight * whole * kl(mass / whole, block.mass / whole)) / whole

    for before, after in zip(block.marginals, moved.marginals, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-9)
    best, rng = objective(moved.mass), np.random.default_rng(seed)
    # the objective is convex: no worse than its neighbours is no worse than any
    for _ in range(20):
        step = rng.normal(size=(a, b))
        step -= step.mean(0) + step.mean(1, keepdims=True) - step.mean()
        step *= rng.choice([1e-3, 0.1, 0.9]) * (moved.mass / np.abs(step).max()).min()
        assert objective(moved.mass + step) >= best - 1e-9


@given(seed=seeds)
def test_proximal_step_of_a_large_weight_stays(seed):
    block, cost = random_block(seed, 4, 4)
    np.testing.assert_allclose(proximal(block, cost, 1e6).mass, block.mass, rtol=1e-5)


# at 0 two groups of pairs hardly exchange mass, where Sinkhorn's iteration all but stops
@pytest.mark.parametrize("seed", range(5))
def test_proximal_step_of_a_small_weight_approaches_transport(seed):
    n, weight = 4, 0.05
    # one assignment is clearly the best
    assignment = np.eye(n)[np.random.default_rng(seed).permutation(n)]
    cost = random_cost(seed, n, n) + 2 * (1 - assignment)
    even = Block(np.arange(n), np.arange(n), np.full((n, n), 1 / n**2))
    moved, best = proximal(even, cost, weight).mass, dense(transport(cost))
    least = spent(best, cost)
    # KL(best || even) = log n
    assert least - 1e-9 <= spent(moved, cost) <= least + weight * np.log(n)
    np.testing.assert_allclose(moved, best, atol=1e-6)


@given(case=divided(smoothing=0.3), seed=seeds)
def test_marginals_stay_uniform_after_proximal_steps(case, seed):
    cost, _, blocks = case
    for k, weight in enumerate((0.1, 0.5)):
        blocks = [proximal(b, random_cost(seed + k, *b.mass.shape), weight) for b in blocks]
        assert_uniform(dense(joined(blocks, cost.shape)))


def test_pairs_gain_mass_where_they_are_cheap():
    even = Block(np.arange(2), np.arange(2), np.full((2, 2), 0.25))
    # for symmetric 2 x 2 the mass on the diagonal is 1 / (1 + exp(-difference / weight))
    moved = proximal(even, np.array([[0.0, 0.3], [0.3, 0.0]]), weight=0.1).mass
    assert moved[0, 0] + moved[1, 1] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-9)


# --- quadratic proximal steps ---


def marginal_rows(a, b):
    """(a + b, a b): what a mass matrix, row by row, must be multiplied by to give its marginals."""
    return np.vstack([np.kron(np.eye(a), np.ones(b)), np.kron(np.ones(a), np.eye(b))])


def quadratic(mass, block, cost, weight):
    """The objective, and its (a, b) gradient, at a block's masses."""
    whole = block.mass.sum()
    moved = (mass - block.mass) / whole
    value = spent(mass, cost) / whole + weight / 2 * (moved**2).sum()
    return float(value), cost + weight * moved


@pytest.mark.parametrize("weight", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_quadratic_step_is_what_a_general_solver_finds(seed, weight):
    block, cost = random_block(seed, 4, 3)
    whole = block.mass.sum()

    def objective(part):
        value, gradient = quadratic(part.reshape(4, 3) * whole, block, cost, weight)
        return value, gradient.ravel()

    rows, held = marginal_rows(4, 3)[:-1], np.concatenate(block.marginals)[:-1] / whole
    found = minimize(
        objective,
        block.mass.ravel() / whole,
        jac=True,
        bounds=[(0, None)] * 12,
        constraints=LinearConstraint(rows, held, held),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    moved = proximal_quadratic(block, cost, weight).mass / whole
    np.testing.assert_allclose(moved.ravel(), found.x, atol=1e-5)


@pytest.mark.parametrize("weight", [1e-3, 0.05, 0.25, 1.25, 6.25, 500.0])
@pytest.mark.parametrize("smoothing", [1e-3, 0.3])
def test_quadratic_step_keeps_its_marginals_and_is_nearly_the_best(weight, smoothing):
    """On blocks as large as they come, one of which has a source that is shared with another."""
    blocks = block_transport(random_cost(1, 40, 50), 25, 0, smoothing)
    for block in blocks:
        cost = random_cost(2, *block.mass.shape) * 0.3
        moved = proximal_quadratic(block, cost, weight)
        assert moved.mass.min() >= 0
        for before, after in zip(block.marginals, moved.marginals, strict=True):
            np.testing.assert_allclose(after, before, atol=1e-12)
        value, gradient = quadratic(moved.mass, block, cost, weight)
        # convex, so no plan is better than this one by more than the linear part promises
        whole = block.mass.sum()
        best = linprog(
            gradient.ravel(),
            A_eq=marginal_rows(*cost.shape),
            b_eq=np.concatenate(block.marginals) / whole,
        )
        gap = spent(moved.mass / whole, gradient) - best.fun
        stayed = quadratic(block.mass, block, cost, weight)[0]
        assert gap <= 1e-5
        assert value <= stayed + 1e-9


def test_quadratic_step_by_hand():
    even = Block(np.arange(2), np.arange(2), np.full((2, 2), 0.25))
    cost = np.array([[0.0, 0.3], [0.3, 0.0]])
    # a shift of s to the diagonal saves 2 * 0.3 s and costs weight / 2 * 4 s^2
    for weight, shift in ((1.0, 0.15), (3.0, 0.05), (0.1, 0.25)):
        moved = proximal_quadratic(even, cost, weight).mass
        assert moved[0, 0] == pytest.approx(0.25 + shift, abs=1e-7)


def test_quadratic_step_of_a_weight_that_is_too_small_is_refused():
    block, cost = random_block(0, 20, 20)
    with pytest.raises(ValueError, match=r"weight must be above some 1e-4 of the costs.*got 1e-08"):
        proximal_quadratic(block, cost, 1e-8)


def test_pair_without_mass_gains_some_in_a_quadratic_step():
    empty = Block(np.arange(2), np.arange(2), np.diag([0.5, 0.5]))
    moved = proximal_quadratic(empty, np.array([[0.3, 0.0], [0.0, 0.3]]), weight=1.0).mass
    # as by hand above
    assert moved[0, 1] == pytest.approx(0.15, abs=1e-7)


@given(seed=seeds, scale=st.sampled_from([1e-3, 0.2]))
def test_quadratic_step_does_not_depend_on_the_blocks_whole_mass(seed, scale):
    block, cost = random_block(seed, 4, 3)
    moved = proximal_quadratic(block, cost, 0.5).mass
    small = proximal_quadratic(block._replace(mass=scale * block.mass), cost, 0.5).mass
    np.testing.assert_allclose(small / scale, moved, atol=1e-6 * block.mass.sum())


# --- blocks that are hardly smoothed ---


@pytest.mark.parametrize("smoothing", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("seed", range(3))
def test_no_pair_of_a_smoothed_block_loses_its_mass(smoothing, seed):
    """Warnings are errors here, so no logarithm of 0 is taken either."""
    cost = cosine_cost(*(np.random.default_rng((seed, k)).normal(size=(50, 8)) for k in range(2)))
    blocks = block_transport(cost, 25, seed, smoothing)
    for weight in (0.05, 0.25, 1.25):
        assert all((b.mass > 0).all() for b in blocks)
        assert_uniform(dense(joined(blocks, cost.shape)))
        blocks = [proximal(b, random_cost(seed, *b.mass.shape), weight) for b in blocks]


def test_hardly_smoothed_block_costs_nearly_what_the_exact_one_costs():
    cost = random_cost(0, 25, 25)
    (smooth,) = block_transport(cost, 25, 0, 1e-3)
    (exact,) = block_transport(cost, 25, 0)
    assert spent(exact.mass, cost) <= spent(smooth.mass, cost) <= spent(exact.mass, cost) + 0.01


# --- what is refused ---


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        ([[0.75, -0.25], [-0.25, 0.75]], "masses of 0 or more"),
        ([[0.5, 0], [0.5, 0]], "off by 0.5"),
        ([[0.4, 0.1], [0.1, 0.3]], "off by 0.1"),
        ([[0.5, 0.5], [0.5, 0.5]], "off by 0.5"),
        ([[np.nan, 0], [0, 0.5]], "off by nan"),
    ],
    ids=["negative", "uneven columns", "too little", "too much", "not a number"],
)
def test_matrix_that_is_no_coupling_is_refused(matrix, says):
    with pytest.raises(ValueError, match=says):
        Coupling(csc_array(np.array(matrix)))
