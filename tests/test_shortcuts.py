import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rtl_utils.spurious import ball, ball_places, permute_features, plant_ball, plant_share
from rtl_utils.tasks import cifar100

seeds = st.integers(0, 2**32)


def changed_boxes(before, after):
    """(n, 4) top, bottom, left, right of what changed in each image."""
    return torch.tensor(
        [[*rows.aminmax(), *columns.aminmax()] for rows, columns in (((b != a).any(0).nonzero()).T for b, a in zip(before, after, strict=True))]
    )


@given(seed=seeds)
def test_ball_changes_one_small_box_inside_each_image_and_nothing_else(pictures, seed):
    task = pictures()
    planted = plant_ball(task, "all", seed)
    for split in ("train", "val"):
        before, after = getattr(task, f"x_{split}"), getattr(planted, f"x_{split}")
        places = ball_places(before, seed, split)
        box = torch.zeros_like(before, dtype=torch.bool)
        for row, (top, left) in enumerate(places.tolist()):
            assert 0 <= top <= 13 and 0 <= left <= 13  # 3 x 3 on 16 x 16
            box[row, :, top : top + 3, left : left + 3] = True
        assert torch.equal(after[~box], before[~box])
        assert (after != before).flatten(1).any(1).all()


def test_ball_on_real_images_is_4_by_4_and_reaches_every_border(real_cifar100):
    task = cifar100("flowers")
    boxes = changed_boxes(task.x_train, plant_ball(task, "all", seed=0).x_train)
    assert (boxes[:, 1] - boxes[:, 0]).max() == 3 and (boxes[:, 3] - boxes[:, 2]).max() == 3
    assert boxes.amin(0).tolist()[::2] == [0, 0] and boxes.amax(0).tolist()[1::2] == [31, 31]


@given(seed=seeds, classes=st.sets(st.sampled_from("abcde"), min_size=1))
def test_ball_is_on_the_named_classes_only_at_the_same_places(pictures, seed, classes):
    task = pictures()
    everywhere, planted = plant_ball(task, "all", seed), plant_ball(task, tuple(classes), seed)
    for split in ("train", "val"):
        named = torch.tensor([task.class_names[k] in classes for k in getattr(task, f"y_{split}")])
        x = getattr(planted, f"x_{split}")
        assert torch.equal(x[named], getattr(everywhere, f"x_{split}")[named])
        assert torch.equal(x[~named], getattr(task, f"x_{split}")[~named])


def test_one_class_may_be_named_alone(pictures):
    assert torch.equal(plant_ball(pictures(), "b", 0).x_train, plant_ball(pictures(), ("b",), 0).x_train)


def test_planting_leaves_the_original_and_the_labels(pictures):
    task, fresh = pictures(), pictures()
    planted = plant_ball(task, "all", seed=0)
    assert torch.equal(task.x_train, fresh.x_train) and torch.equal(task.x_val, fresh.x_val)
    assert torch.equal(planted.y_train, task.y_train) and planted.class_names == task.class_names


def test_ball_may_be_planted_into_one_split(pictures):
    task = pictures()
    planted = plant_ball(task, "all", seed=0, splits=("val",))
    assert torch.equal(planted.x_train, task.x_train) and not torch.equal(planted.x_val, task.x_val)
    assert torch.equal(planted.x_val, plant_ball(task, "all", seed=0).x_val)


def test_places_differ_with_seed_and_split(pictures):
    images = pictures().x_train
    places = {tuple(ball_places(images, seed, split).flatten().tolist()) for seed in (0, 1) for split in ("train", "val")}
    assert len(places) == 4


@given(seed=seeds, classes=st.sets(st.sampled_from("abcde"), min_size=1), share=st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0]))
def test_share_of_each_class_carries_the_ball_at_its_place(pictures, seed, classes, share):
    task = pictures(a_class=8)
    planted, everywhere = plant_share(task, tuple(sorted(classes)), share, seed), plant_ball(task, "all", seed)
    carries = (planted.x_train != task.x_train).flatten(1).any(1)
    expected = {0.01: 1, 0.1: 1, 0.25: 2, 0.5: 4, 1.0: 8}[share]  # of eight images a class, one at least
    assert [int(carries[task.y_train == k].sum()) for k in range(5)] == [expected if name in classes else 0 for name in "abcde"]
    assert torch.equal(planted.x_train[carries], everywhere.x_train[carries])
    assert torch.equal(planted.x_val, task.x_val) and torch.equal(planted.y_train, task.y_train)


def test_images_that_carry_a_share_differ_with_the_seed(pictures):
    task = pictures(a_class=20)
    chosen = [tuple((plant_share(task, ("a",), 0.25, seed).x_train != task.x_train).flatten(1).any(1).tolist()) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_share_out_of_range_is_refused(pictures, share):
    with pytest.raises(ValueError, match=rf"share must lie in \(0, 1\]; got {share!r}"):
        plant_share(pictures(), ("a",), share, seed=0)


@pytest.mark.parametrize("size", [3, 4, 20])
def test_ball_is_a_yellow_disc(size):
    picture = ball(size)
    colour, alpha = picture[:3], picture[3]
    assert picture.shape == (4, size, size) and alpha.min() >= 0 and alpha.max() <= 1
    assert colour.min() >= 0 and colour.max() <= 255
    assert alpha[0, 0] < 1 and alpha[size // 2, size // 2] == 1  # corners let the image through
    torch.testing.assert_close(alpha.mean(), torch.tensor(torch.pi / 4), atol=0.01, rtol=0)  # the disc's share of its square
    assert torch.equal(alpha, alpha.T) and torch.equal(alpha, alpha.flip(0))
    assert (colour[1] > colour[2])[alpha > 0].all()  # more green than blue


def test_blend_is_between_image_and_ball(pictures):
    task = pictures()
    planted = plant_ball(task, "all", seed=4).x_train
    (top, left), picture = ball_places(task.x_train, 4, "train")[0].tolist(), ball(3)
    patch = task.x_train[0, :, top : top + 3, left : left + 3].float()
    expected = picture[3] * picture[:3] + (1 - picture[3]) * patch
    torch.testing.assert_close(planted[0, :, top : top + 3, left : left + 3].float(), expected, atol=0.51, rtol=0)


def test_class_that_the_task_lacks_is_refused(pictures):
    with pytest.raises(ValueError, match="class 'kangaroo' is not in task"):
        plant_ball(pictures(), ("a", "kangaroo"), seed=0)


def test_task_without_images_is_refused(table):
    with pytest.raises(ValueError, match="images only; task 'target'"):
        plant_ball(table(), "all", seed=0)


@given(seed=seeds)
def test_column_permutation_moves_every_feature_and_only_those(table, seed):
    task = table(n=8)
    permuted = permute_features(task, seed, features=4)
    for split in ("x_train", "x_val"):
        before, after = getattr(task, split), getattr(permuted, split)
        places = [next(i for i in range(4) if torch.equal(after[:, j], before[:, i])) for j in range(4)]
        assert sorted(places) == [0, 1, 2, 3] and all(i != j for j, i in enumerate(places))
        assert torch.equal(after[:, 4:], before[:, 4:])


def test_column_permutation_is_one_for_both_splits_and_fixed_by_the_seed(table):
    numbered = table(n=20)
    x = torch.arange(5.0).expand(20, 5)  # each row says which column stands where
    task = numbered.__class__("t", "random", x, numbered.y_train, x, numbered.y_val)
    permuted = permute_features(task, seed=1, features=5)
    assert torch.equal(permuted.x_train, permuted.x_val)
    assert torch.equal(permuted.x_train, permute_features(task, seed=1, features=5).x_train)
    assert len({tuple(permute_features(task, seed=s, features=5).x_train[0].tolist()) for s in range(20)}) > 5


@given(seed=seeds)
def test_row_permutation_keeps_each_columns_values(table, seed):
    task = table(n=30)
    permuted = permute_features(task, seed, by="rows", features=4)
    for split in ("x_train", "x_val"):
        before, after = getattr(task, split), getattr(permuted, split)
        assert torch.equal(after.sort(0).values, before.sort(0).values)
        assert not torch.equal(after[:, :4], before[:, :4]) and torch.equal(after[:, 4:], before[:, 4:])


@pytest.mark.parametrize("by", ["columns", "rows"])
def test_permuting_leaves_the_original_and_the_responses(table, by):
    task, fresh = table(), table()
    permuted = permute_features(task, seed=0, by=by, features=5)
    assert torch.equal(task.x_train, fresh.x_train) and torch.equal(task.x_val, fresh.x_val)
    assert torch.equal(permuted.y_train, task.y_train) and torch.equal(permuted.y_val, task.y_val)


def test_permuting_by_another_axis_or_images_is_refused(table, pictures):
    with pytest.raises(ValueError, match="by must be 'columns' or 'rows'; got 'pixels'"):
        permute_features(table(), seed=0, by="pixels")
    with pytest.raises(ValueError, match="tables only; task 'target'"):
        permute_features(pictures(), seed=0)
