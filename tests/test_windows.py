"""Adversarial windows: where they lie, that they grow, and that a stack is like each alone."""

import copy
from dataclasses import replace

import pytest
import torch

from rtl_utils.data import as_float
from rtl_utils.models import build
from rtl_utils.paths import Path
from rtl_utils.schedules import CONSTANT
from rtl_utils.training import Replica, Sgd, _windows, fit, loop
from rtl_utils.training._programs import Single, Stacked
from rtl_utils.training._windows import Windows, changed
from rtl_utils.training.loop import _train

WIDTH = (4, 4, 8, 8)
BANDS = ((0.125, 1.0), (1.0, 0.125))
SGD = Sgd(lr=0.05, epochs=2, batch_size=8)


@pytest.fixture
def replica(pictures):
    """Makes a replica in float64 with windows, by default of a quarter of the image's side."""

    def make(seed=0, windows=(0.25,)):
        task = pictures("target", 2, per_class=8)
        net = build(task, WIDTH, seed).double()
        return Replica(net, Path(task), CONSTANT, seed, SGD, windows=windows)

    return make


@pytest.fixture
def windows(replica):
    one = replica()
    example = as_float(one.path.target.x_train[:1], torch.float64)
    return Windows([one], Single([one.net]), example)


def inputs(replica):
    return as_float(replica.path.target.x_train, torch.float64)[None]


def test_half_of_the_images_have_a_copy_that_differs_in_one_window(windows, replica):
    x = inputs(replica())
    n = x.shape[1]
    for epoch in range(20):
        places = windows.places(windows.draw(n, epoch), slice(0, n))
        copies = windows.copies(x, places)
        assert copies.shape == (1, n // 2, *x.shape[2:])
        last = places.parts()[-1]
        differs = (copies != x[:, : n // 2])[0].any(1)  # (m, h, w)
        for image in range(n // 2):
            label, down, across = (int(part[0, image]) for part in last)
            there = (slice(None), slice(down, down + 4), slice(across, across + 4))
            torch.testing.assert_close(copies[0, image][there], windows.pixels[0][0, label])
            assert 0 < differs[image].sum() <= 16


def test_a_copy_has_label_and_mask_of_its_image_and_follows_the_examples():
    x, y = torch.rand(2, 6, 3, 8, 8), torch.rand(2, 6, 5)
    mask = torch.rand(2, 6, 4, 4, 4)
    copies = torch.rand(2, 3, 3, 8, 8)
    together = loop._with_copies(x, y, [mask], copies)
    assert torch.equal(together[0], torch.cat([x, copies], 1))
    assert torch.equal(together[1][:, 6:], y[:, :3])
    assert torch.equal(together[2][0][:, 6:], mask[:, :3])


def test_a_changed_answer_costs_its_divergence_and_an_equal_one_nothing():
    torch.manual_seed(0)
    examples, other = torch.randn(2, 6, 5).double(), torch.randn(2, 3, 5).double()
    same = torch.cat([examples, examples[:, :3]], 1)
    torch.testing.assert_close(changed(same, 6), torch.zeros(2).double())
    output = torch.cat([examples, other], 1).requires_grad_()
    q = torch.distributions.Categorical(logits=other)
    p = torch.distributions.Categorical(logits=examples[:, :3])
    expected = torch.distributions.kl_divergence(p, q).mean(1)
    torch.testing.assert_close(changed(output, 6), expected)
    (gradient,) = torch.autograd.grad(changed(output, 6).sum(), output)
    assert (gradient[:, :6] == 0).all()  # the answer to the image itself is not pulled
    assert (gradient[:, 6:] != 0).any()


def test_windows_grow_towards_what_the_network_takes_for_their_output(
    windows, replica, monkeypatch
):
    x = inputs(replica())
    n = x.shape[1]

    def likely():
        places, *_ = windows.places(windows.draw(n, 0), slice(0, n)).parts()
        before = windows.pixels[0].clone()
        after = windows._grown(x, before, places)
        with torch.no_grad():
            return [score(windows, x, pixels, places) for pixels in (before, after)]

    with monkeypatch.context() as short:
        short.setattr(_windows, "_RATE", 1e-3)  # a step of the gradient's size, not beyond a peak
        before, after = likely()
    assert after > before
    for epoch in range(30):
        windows.copies(x, windows.places(windows.draw(n, epoch), slice(0, n)))
    assert likely()[0] > before
    black, white = as_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    assert windows.pixels[0].min() >= black
    assert windows.pixels[0].max() <= white


def score(windows, x, pixels, places):
    """Mean log-probability of the outputs whose windows the images carry."""
    shown = x.clone()
    for image, (label, down, across) in enumerate(
        zip(*(p[0].tolist() for p in places), strict=True)
    ):
        shown[0, image, :, down : down + 4, across : across + 4] = pixels[0, label]
    windows.program.train(False)
    outputs = windows.program(shown).log_softmax(-1)
    return float(outputs[0, torch.arange(len(shown[0])), places.output[0]].mean())


@pytest.mark.parametrize("windows", [(0.25,), BANDS], ids=["squares", "bands"])
def test_stack_with_windows_equals_each_alone(replica, windows):
    together, alone = ([replica(seed, windows) for seed in range(2)] for _ in range(2))
    _train(together, Stacked, "cpu")
    for one, other in zip(together, alone, strict=True):
        _train([other], Single, "cpu")
        for name, value in one.net.state_dict().items():
            torch.testing.assert_close(value, other.net.state_dict()[name], rtol=1e-6, atol=1e-8)


def test_sizes_take_turns_and_each_grows_in_its_own(replica):
    one = replica(windows=(0.125, 0.25, 0.5))
    example = as_float(one.path.target.x_train[:1], torch.float64)
    windows = Windows([one], Single([one.net]), example)
    assert [pixels.shape for pixels in windows.pixels] == [(1, 5, 3, s, s) for s in (2, 4, 8)]
    x = inputs(one)
    n = x.shape[1]
    for epoch, side in enumerate([2, 4, 8, 2]):
        before = copy.deepcopy(windows.pixels)
        copies = windows.copies(x, windows.places(windows.draw(n, epoch), slice(0, n)))
        covered = (copies != x[:, : n // 2])[0].any(1).sum((1, 2)).max()
        assert covered == side**2
        grew = [not torch.equal(a, b) for a, b in zip(before, windows.pixels, strict=True)]
        assert grew == [side == s for s in (2, 4, 8)]


def test_bands_lie_across_the_whole_image(replica):
    one = replica(windows=BANDS)
    example = as_float(one.path.target.x_train[:1], torch.float64)
    windows = Windows([one], Single([one.net]), example)
    assert [pixels.shape for pixels in windows.pixels] == [(1, 5, 3, 2, 16), (1, 5, 3, 16, 2)]
    assert not torch.equal(*(pixels.flatten() for pixels in windows.pixels))  # drawn apart
    x = inputs(one)
    n = x.shape[1]
    for epoch, (height, width) in enumerate([(2, 16), (16, 2)] * 3):
        places = windows.places(windows.draw(n, epoch), slice(0, n))
        copies = windows.copies(x, places)
        differs = (copies != x[:, : n // 2])[0].any(1)  # (m, h, w)
        for image in range(n // 2):
            label, down, across = (int(part[0, image]) for part in places.parts()[-1])
            there = (slice(down, down + height), slice(across, across + width))
            band = windows.pixels[places.size][0, label]
            torch.testing.assert_close(copies[0, image][:, *there], band)
            assert differs[image].sum() == differs[image][there].sum() > 0


def test_windows_change_the_training_and_none_is_plain_training(replica):
    nets = {}
    for windows in ((), (0.25,)):
        one = replica(windows=windows)
        fit([one])
        nets[windows] = one.net.state_dict()
    plain = replica(windows=())
    fit([Replica(plain.net, plain.path, CONSTANT, 0, SGD)])
    weight = "head.weight"
    assert torch.equal(nets[()][weight], plain.net.state_dict()[weight])
    assert not torch.equal(nets[0.25,][weight], nets[()][weight])


@pytest.mark.parametrize(
    "window",
    [
        -0.25,
        0.0,
        1.5,
        float("nan"),
        "0.25",
        (1.0, 0.0),
        (1.5, 0.25),
        (0.25,),
        (0.5, 0.5, 0.5),
        [1, 1],
    ],
)
def test_a_window_that_does_not_fit_is_refused(replica, window):
    says = (
        r"a window must be a side of more than 0 and at most 1 .*, or two of them in a tuple; got"
    )
    with pytest.raises(ValueError, match=says):
        replica(windows=(0.25, window))


@pytest.mark.parametrize(
    ("windows", "steady"), [((), 1.0), ((0.25,), -1.0), ((0.25,), float("nan"))]
)
def test_a_weight_of_changed_answers_needs_windows_and_is_no_reward(replica, windows, steady):
    one = replica(windows=windows)
    with pytest.raises(ValueError, match="steady must be 0 or more, and 0 where there are no"):
        Replica(one.net, one.path, CONSTANT, 0, SGD, windows=windows, steady=steady)


def test_images_that_are_not_square_have_no_windows(pictures):
    task = pictures()
    x_train, x_val = task.x_train[..., :8], task.x_val[..., :8]
    wide = replace(task, x_train=x_train, x_val=x_val)
    with pytest.raises(ValueError, match=r"square images; .* sides of 8 and 16 pixels"):
        Replica(build(wide, (4, 4, 4, 4), 0), Path(wide), CONSTANT, 0, SGD, windows=(0.25,))


def test_features_have_no_windows(table):
    task = table()
    with pytest.raises(ValueError, match=r"windows are for images; .* has features"):
        Replica(build(task, "plain", 0), Path(task), CONSTANT, 0, SGD, windows=(0.25,))
