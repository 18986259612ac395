import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rtl_utils.models import Net
from rtl_utils.probing import ball_test, class_share, confusion, flip_rate
from rtl_utils.tasks import Task

logit_lists = st.lists(st.tuples(*[st.floats(-10, 10)] * 3), min_size=1, max_size=20)


def one_hot(*labels):
    """Logits that predict the labels, of four classes."""
    return nn.functional.one_hot(torch.tensor(labels), 4).float()


def test_flip_rate_of_a_known_case():
    assert flip_rate(one_hot(0, 1, 2, 3), one_hot(0, 1, 3, 3)) == 0.25


@given(logits=logit_lists, shift=st.floats(-5, 5), scale=st.floats(0.5, 5))
def test_flip_rate_looks_at_predictions_alone(logits, shift, scale):
    logits = torch.tensor(logits)
    assert flip_rate(logits, logits) == 0
    powers = torch.tensor([0.0, 8, 16])  # so far apart that rounding makes no ties
    assert flip_rate(logits * 0 + powers, scale * powers.expand(len(logits), 3) + shift) == 0


@given(a=logit_lists, b=logit_lists)
def test_flip_rate_is_symmetric_and_a_fraction(a, b):
    n = min(len(a), len(b))
    a, b = torch.tensor(a[:n]), torch.tensor(b[:n])
    assert flip_rate(a, b) == flip_rate(b, a) and 0 <= flip_rate(a, b) <= 1


def test_flip_rate_of_other_inputs_or_none_is_refused():
    for a, b in ((one_hot(0, 1), one_hot(0)), (torch.zeros(0, 4), torch.zeros(0, 4)), (torch.zeros(2, 3), torch.zeros(2, 4))):
        with pytest.raises(ValueError, match="flip_rate needs logits of the same inputs"):
            flip_rate(a, b)


def test_class_share_of_a_known_case():
    assert [class_share(one_hot(0, 1, 1, 3), label) for label in range(4)] == [0.25, 0.5, 0, 0.25]


def test_confusion_rows_are_true_classes():
    table = confusion(one_hot(0, 1, 1, 3, 3), torch.tensor([0, 1, 2, 3, 0]))
    assert table.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


@given(logits=logit_lists, seed=st.integers(0, 1000))
def test_confusion_counts_every_example_once(logits, seed):
    logits = torch.tensor(logits)
    y = torch.randint(0, 3, (len(logits),), generator=torch.Generator().manual_seed(seed))
    table = confusion(logits, y)
    assert table.sum(1).tolist() == y.bincount(minlength=3).tolist()
    assert table.sum(0).tolist() == logits.argmax(1).bincount(minlength=3).tolist()
    assert table.trace() / len(y) == pytest.approx(float((logits.argmax(1) == y).float().mean()))


def test_ball_test_of_a_net_that_reads_one_pixel():
    """The net predicts the class that the first pixels name; the 'ball' names class 1 on three of four images."""

    def task(*labels):
        x = (255 * one_hot(*labels)).to(torch.uint8).reshape(4, 1, 2, 2)
        y = torch.tensor([0, 1, 2, 3])
        return Task("t", "random", x, y, x, y, tuple("abcd"))

    net = Net([nn.Flatten()], (0.0,), nn.Linear(4, 4, bias=False))
    net.head.weight.data = torch.eye(4)
    assert ball_test(net, task(0, 1, 2, 3), task(1, 1, 1, 3), label=1) == {
        "clean_accuracy": 1.0,
        "ball_accuracy": 0.5,
        "clean_share": 0.25,
        "ball_share": 0.75,
        "flip_rate": 0.5,
    }
