"""A head that is fitted to convergence: the optimum is one, and it is reached."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from rtl_utils.data import as_float, disjoint, soft_labels
from rtl_utils.heads import PENALTY, converge_head
from rtl_utils.models import build, predict, predict_features
from rtl_utils.training import example_loss

WIDTH = (4, 4, 8, 8)


@pytest.fixture
def task(pictures):
    return pictures("target", 2, per_class=8)


@pytest.fixture
def net(task):
    net = build(task, WIDTH, seed=5)
    net(as_float(task.x_train))  # BatchNorm statistics other than 0 and 1
    return net


def two_classes(task):
    """The first two classes of a task, as a task of two outputs."""
    train, val = task.y_train < 2, task.y_val < 2
    return replace(
        task,
        x_train=task.x_train[train],
        y_train=task.y_train[train],
        x_val=task.x_val[val],
        y_val=task.y_val[val],
        class_names=task.class_names[:2],
    )


def without_class(task, label):
    """The task without training examples of a class."""
    kept = task.y_train != label
    return replace(task, x_train=task.x_train[kept], y_train=task.y_train[kept])


def gradient(net, task):
    """Largest entry of the gradient of mean loss + penalty / 2 |w|^2, over the head."""
    features = predict_features(net, task.x_train).double()
    weight, bias = (p.detach().double().requires_grad_() for p in net.head.parameters())
    output = features @ weight.T + bias
    loss = example_loss(output, soft_labels(task, task.y_train, output.dtype)).mean()
    loss = loss + PENALTY / 2 * weight.square().sum()
    return max(float(g.abs().max()) for g in torch.autograd.grad(loss, (weight, bias)))


def least(net):
    """A gradient far below that of the penalty, so that a wrong penalty shows."""
    return 0.05 * PENALTY * float(net.head.weight.detach().abs().max())


def test_head_is_the_optimum_of_the_penalised_loss(net, task):
    before = gradient(net, task)
    converge_head(net, task)
    assert gradient(net, task) < least(net) < before


def test_head_of_two_classes_is_the_optimum(pictures):
    task = two_classes(pictures("target", 2, per_class=8))
    net = build(task, WIDTH, seed=5)
    converge_head(net, task)
    assert gradient(net, task) < least(net)


def test_head_of_a_regression_is_the_optimum(table):
    task = table("target", 2)
    net = build(task, "batchnorm", seed=5)
    net(task.x_train)
    before = gradient(net, task)
    history = converge_head(net, task)
    assert gradient(net, task) < least(net) < before
    assert history.val_loss == [
        pytest.approx(float((predict(net, task.x_val) - task.y_val).square().mean()), rel=1e-4)
    ]
    assert all(value != value for value in history.train_accuracy + history.val_accuracy)


def test_head_does_not_depend_on_the_one_before(net, task):
    heads = []
    for scale in (0.0, 100.0):
        with torch.no_grad():
            for p in net.head.parameters():
                p.copy_(scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        converge_head(net, task)
        heads.append([p.detach().clone() for p in net.head.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*heads, strict=True))


def test_body_is_left_alone_and_the_network_in_evaluation_mode(net, task):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    converge_head(net, task)
    assert not net.training
    for name, value in net.state_dict().items():  # weights and BatchNorm statistics
        assert torch.equal(value, before[name]) != name.startswith("head."), name
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_history_is_one_epoch_of_what_the_network_now_does(net, task):
    before = nn.utils.parameters_to_vector(net.head.parameters()).detach().clone()
    history = converge_head(net, task)
    assert {len(values) for name, values in history.series().items() if values} == {1}
    assert history.tau == [1.0]
    for split in ("train", "val"):
        y = getattr(task, f"y_{split}")
        output = predict(net, getattr(task, f"x_{split}"))
        (loss,) = getattr(history, f"{split}_loss")
        (accuracy,) = getattr(history, f"{split}_accuracy")
        assert loss == pytest.approx(float(nn.functional.cross_entropy(output, y)), rel=1e-4)
        assert accuracy == pytest.approx(float((output.argmax(1) == y).float().mean()))
    moved = nn.utils.parameters_to_vector(net.head.parameters()).detach() - before
    assert history.weight_length == [pytest.approx(float(moved.norm()), rel=1e-5)]
    assert history.seconds > 0


@pytest.mark.parametrize("label", [0, 2, 4])
def test_class_without_training_examples_is_never_predicted(net, task, label):
    converge_head(net, without_class(task, label))
    predicted = predict(net, torch.cat([task.x_train, task.x_val])).argmax(1)
    assert label not in predicted
    assert len(predicted.unique()) > 1


def test_other_classes_are_fitted_as_if_an_absent_one_were_not_there(net, task):
    """The optimum over the classes that there are, whichever label is left out."""
    converge_head(net, without_class(task, 4))
    four = without_class(task, 4)
    four = replace(four, x_val=four.x_train, y_val=four.y_train, class_names=tuple("abcd"))
    narrow = build(four, WIDTH, seed=0)
    narrow.body.load_state_dict(net.body.state_dict())
    converge_head(narrow, four)
    torch.testing.assert_close(net.head.weight[:4], narrow.head.weight)
    assert not net.head.weight[4].any()


def test_task_of_one_class_sends_everything_there(net, task):
    for label in range(4):
        task = without_class(task, label)
    converge_head(net, task)
    assert set(predict(net, task.x_val).argmax(1).tolist()) == {4}


def test_disjoint_head_predicts_the_targets_own_classes(pictures, task):
    other = replace(pictures("source", 1), class_names=tuple("fghij"))
    _, target = disjoint(other, task)
    net = build(target, WIDTH, seed=5)
    converge_head(net, target)
    assert set(predict(net, target.x_val).argmax(1).tolist()) <= set(range(5, 10))


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_threads_changes_no_bit(net, pictures, threads):
    """Also after others were fitted: the fit depends on nothing that is left of them."""
    task = pictures("target", 2, per_class=60)
    heads = []
    before = torch.get_num_threads()
    for count in (1, threads):
        torch.set_num_threads(count)
        converge_head(net, task)
        heads.append(net.head.weight.detach().clone())
        converge_head(net, pictures("other", 3))
    torch.set_num_threads(before)
    assert torch.equal(*heads)


def test_separable_classes_have_an_optimum(pictures):
    """Without a penalty the weights of separable classes grow without end."""
    task = two_classes(pictures("target", 2, per_class=8))
    bright = task.y_train[:, None, None, None] * torch.full_like(task.x_train, 255)
    task = replace(task, x_train=bright.to(torch.uint8))
    net = build(task, WIDTH, seed=5)
    net(as_float(task.x_train))
    history = converge_head(net, task)
    assert history.train_accuracy == [1.0]
    assert float(net.head.weight.detach().norm()) < 100
    assert gradient(net, task) < 1e-4
