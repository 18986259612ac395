from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rtl_utils.data import PATCHES, Shortcut, Task, ball, cifar100, plant, usual
from rtl_utils.data.shortcuts import blend_patch, mark, places, stripe

seeds = st.integers(0, 2**32)
some_classes = st.sets(st.sampled_from("abcde"), min_size=1).map(lambda names: tuple(sorted(names)))


def carrying(planted, task, split="train"):
    """(n,) whether an image differs from the clean task's."""
    before, after = getattr(task, f"x_{split}"), getattr(planted, f"x_{split}")
    return (after != before).flatten(1).any(1)


def changed_boxes(before, after):
    """(n, 4) top, bottom, left, right of what changed in each image."""
    boxes = []
    for b, a in zip(before, after, strict=True):
        down, across = (b != a).any(0).nonzero().T
        boxes.append([*down.aminmax(), *across.aminmax()])
    return torch.tensor(boxes)


# --- planting ---


@given(seed=seeds)
def test_ball_changes_one_small_box_inside_each_image_and_nothing_else(pictures, seed):
    task = pictures()
    planted = plant(task, Shortcut(), seed)
    for split in ("train", "val"):
        before, after = getattr(task, f"x_{split}"), getattr(planted, f"x_{split}")
        box = torch.zeros_like(before, dtype=torch.bool)
        for row, (top, left) in enumerate(places(Shortcut(), before, seed, split).tolist()):
            assert 0 <= top <= 13
            assert 0 <= left <= 13
            box[row, :, top : top + 3, left : left + 3] = True
        assert torch.equal(after[~box], before[~box])
        assert carrying(planted, task, split).all()


def test_ball_on_real_images_is_4_by_4_and_reaches_every_border(real_cifar100):
    task = cifar100("flowers")
    boxes = changed_boxes(task.x_train, plant(task, Shortcut(), seed=0).x_train)
    assert (boxes[:, 1] - boxes[:, 0]).max() == 3
    assert (boxes[:, 3] - boxes[:, 2]).max() == 3
    assert boxes.amin(0).tolist()[::2] == [0, 0]
    assert boxes.amax(0).tolist()[1::2] == [31, 31]


@given(seed=seeds, classes=some_classes)
def test_ball_is_on_the_named_classes_only_at_the_same_places(pictures, seed, classes):
    task = pictures()
    everywhere = plant(task, Shortcut(), seed)
    planted = plant(task, Shortcut(classes=classes), seed)
    for split in ("train", "val"):
        named = torch.tensor([task.class_names[k] in classes for k in getattr(task, f"y_{split}")])
        x = getattr(planted, f"x_{split}")
        assert torch.equal(x[named], getattr(everywhere, f"x_{split}")[named])
        assert torch.equal(x[~named], getattr(task, f"x_{split}")[~named])


def test_planting_leaves_the_original_and_the_labels(pictures):
    task, fresh = pictures(), pictures()
    planted = plant(task, Shortcut(), seed=0)
    assert torch.equal(task.x_train, fresh.x_train)
    assert torch.equal(task.x_val, fresh.x_val)
    assert torch.equal(planted.y_train, task.y_train)
    assert planted.class_names == task.class_names


def test_ball_may_be_planted_into_one_split(pictures):
    task = pictures()
    planted = plant(task, Shortcut(), seed=0, splits=("val",))
    assert torch.equal(planted.x_train, task.x_train)
    assert not torch.equal(planted.x_val, task.x_val)
    assert torch.equal(planted.x_val, plant(task, Shortcut(), seed=0).x_val)


def test_places_differ_with_seed_and_split(pictures):
    images = pictures().x_train
    drawn = {
        tuple(places(Shortcut(), images, seed, split).flatten().tolist())
        for seed in (0, 1)
        for split in ("train", "val")
    }
    assert len(drawn) == 4


@given(corner=st.tuples(st.floats(0, 1), st.floats(0, 1)), seed=seeds)
def test_fixed_place_is_one_for_all_images_and_seeds(pictures, corner, seed):
    task = pictures()
    shortcut = Shortcut("mark", place=corner)
    down, across = (round(13 * part) for part in corner)
    planted = plant(task, shortcut, seed)
    for split in ("train", "val"):
        x = getattr(planted, f"x_{split}")
        assert (x[:, :, down : down + 3, across : across + 3] == 128).all()
        box = torch.zeros(16, 16, dtype=torch.bool)
        box[down : down + 3, across : across + 3] = True
        assert torch.equal(x[..., ~box], getattr(task, f"x_{split}")[..., ~box])


@pytest.mark.parametrize(
    ("place", "corner"),
    [((0.0, 0.0), (0, 0)), ((0, 1), (0, 13)), ((1.0, 0.0), (13, 0)), ((1, 1), (13, 13))],
)
def test_places_of_0_and_1_are_the_corners(pictures, place, corner):
    images = pictures().x_train
    found = places(Shortcut(place=place), images, seed=0, split="train")
    assert found.tolist() == [list(corner)] * len(images)


@given(
    seed=seeds, classes=some_classes, share=st.sampled_from([0.01, 0.1, 0.25, 0.3, 0.5, 0.99, 1.0])
)
def test_exact_share_of_each_class_carries_the_ball_at_its_place(pictures, seed, classes, share):
    task = pictures(per_class=8)
    planted = plant(task, Shortcut(classes=classes, probability=share), seed)
    everywhere = plant(task, Shortcut(), seed)
    # of eight images per class, and at least one
    expected = {0.01: 1, 0.1: 1, 0.25: 2, 0.3: 2, 0.5: 4, 0.99: 8, 1.0: 8}[share]
    for split in ("train", "val"):
        carries = carrying(planted, task, split)
        y = getattr(task, f"y_{split}")
        counts = [int(carries[y == k].sum()) for k in range(5)]
        assert counts == [expected if name in classes else 0 for name in "abcde"]
        x = getattr(planted, f"x_{split}")
        assert torch.equal(x[carries], getattr(everywhere, f"x_{split}")[carries])
    assert torch.equal(planted.y_train, task.y_train)


def test_images_that_carry_a_share_differ_with_the_seed(pictures):
    task = pictures(per_class=20)
    shortcut = Shortcut(classes=("a",), probability=0.25)
    chosen = [carrying(plant(task, shortcut, seed), task).tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_share_of_a_class_does_not_depend_on_where_a_shortcut_goes_or_what_it_is(pictures):
    task = pictures(per_class=20)
    looks = [{}, {"patch": "stripe"}, {"place": (0.5, 0.5)}, {"size": 0.5}]
    chosen = [
        carrying(plant(task, Shortcut(probability=0.25, **look), seed=3), task).tolist()
        for look in looks
    ]
    assert chosen == [chosen[0]] * 4


# --- sizes ---


@pytest.mark.parametrize(
    ("side", "pixels"), [(32, 4), (16, 3), (8, 3), (24, 3), (64, 8), (224, 28)]
)
def test_side_of_the_default_patch_is_an_eighth_and_at_least_three_pixels(side, pixels):
    assert Shortcut().pixels(side) == pixels


@pytest.mark.parametrize(("size", "pixels"), [(1.0, 16), (0.5, 8), (0.25, 4), (0.01, 3)])
def test_size_is_a_share_of_the_image(pictures, size, pixels):
    task = pictures()
    planted = plant(task, Shortcut("mark", size=size), seed=0)
    covered = (planted.x_train == 128).all(1).flatten(1).sum(1)
    assert (covered >= pixels**2).all()
    boxes = changed_boxes(task.x_train, planted.x_train)
    assert (boxes[:, 1] - boxes[:, 0]).max() == pixels - 1
    assert (boxes[:, 3] - boxes[:, 2]).max() == pixels - 1


# --- patches ---


@pytest.mark.parametrize("size", [3, 4, 5, 20])
@pytest.mark.parametrize("name", PATCHES)
def test_every_patch_is_a_picture_with_alpha_of_the_size_asked_for(name, size):
    picture = PATCHES[name].draw(size)
    assert picture.shape == (4, size, size)
    assert picture.is_floating_point()
    colour, alpha = picture[:3], picture[3]
    assert colour.min() >= 0
    assert colour.max() <= 255
    assert alpha.min() >= 0
    assert alpha.max() == (0.3 if name == "tint" else 1)  # what is transparent shows the image


@pytest.mark.parametrize("name", PATCHES)
def test_every_patch_is_blended_into_the_image_by_its_alpha(pictures, name):
    task = pictures()
    shortcut = Shortcut(name)
    planted = plant(task, shortcut, seed=4).x_train
    picture = PATCHES[name].draw(3)
    corners = places(shortcut, task.x_train, 4, "train").tolist()
    for before, after, (top, left) in zip(task.x_train, planted, corners, strict=True):
        window = (slice(None), slice(top, top + 3), slice(left, left + 3))
        expected = picture[3] * picture[:3] + (1 - picture[3]) * before[window].float()
        torch.testing.assert_close(after[window].float(), expected, atol=0.51, rtol=0)


@pytest.mark.parametrize("size", [3, 4, 20])
def test_ball_is_a_yellow_disc(size):
    picture = ball(size)
    colour, alpha = picture[:3], picture[3]
    # corners let the image through
    assert alpha[0, 0] < 1
    assert alpha[size // 2, size // 2] == 1
    disc = torch.tensor(torch.pi / 4)  # its share of its square
    torch.testing.assert_close(alpha.mean(), disc, atol=0.01, rtol=0)
    assert torch.equal(alpha, alpha.T)
    assert torch.equal(alpha, alpha.flip(0))
    assert (colour[1] > colour[2])[alpha > 0].all()  # more green than blue


def test_stripe_is_one_white_line_across_the_middle():
    picture = stripe(5)
    assert (picture[:3, 2] == 255).all()
    assert picture[3].tolist() == [[0] * 5, [0] * 5, [1] * 5, [0] * 5, [0] * 5]


def test_mark_is_an_opaque_grey_square():
    picture = mark(4)
    assert (picture[:3] == 128).all()
    assert (picture[3] == 1).all()


def test_tint_moves_every_pixel_of_an_image_towards_orange(pictures):
    task = pictures("a", 1)
    tinted = plant(task, usual("tint"), seed=0)
    towards = torch.tensor([255.0, 140.0, 0.0])[:, None, None]
    expected = (0.7 * task.x_val.float() + 0.3 * towards).round()
    assert torch.equal(tinted.x_val.float(), expected)


def test_usual_shortcut_has_the_size_and_place_of_its_record():
    assert usual("ball", ("a",)) == Shortcut(classes=("a",))
    for name, patch in PATCHES.items():
        shortcut = usual(name)
        assert (shortcut.patch, shortcut.classes) == (name, None)
        assert (shortcut.size, shortcut.place) == (patch.size, patch.place)
    with pytest.raises(ValueError, match="patch must be one of ball, stripe, mark, tint; got 'x'"):
        usual("x")


def test_blending_touches_the_given_rows_alone(pictures):
    images = pictures().x_train
    corners = torch.zeros(len(images), 2, dtype=torch.int64)
    blended = blend_patch(images, torch.tensor([3, 7]), corners, Shortcut("mark"))
    changed = (blended != images).flatten(1).any(1).nonzero()[:, 0]
    assert changed.tolist() == [3, 7]


def test_new_patch_of_one_record_is_planted(pictures, toy_patch):
    task = pictures()
    planted = plant(task, Shortcut(toy_patch, place=(0.0, 0.0)), seed=0).x_train
    assert (planted[:, 0, :3, :3] == 255).all()
    assert (planted[:, 1:, :3, :3] == 0).all()


# --- records ---


@pytest.mark.parametrize(
    ("shortcut", "text"),
    [
        (Shortcut(), "ball on all"),
        (Shortcut(classes=("kangaroo",)), "ball on kangaroo"),
        (usual("stripe", ("a", "b")), "stripe on a, b"),
        (Shortcut(classes=("4",), probability=0.1), "ball on 4 (10%)"),
        (Shortcut(size=0.25, place=(0, 0.5)), "ball on all (size 0.25, place 0 0.5)"),
        (replace(usual("tint"), place=None), "tint on all (place drawn)"),
        *[(usual(patch), f"{patch} on all") for patch in PATCHES],
    ],
)
def test_shortcut_reads_as_tables_write_it(shortcut, text):
    assert str(shortcut) == text


def test_shortcut_is_a_record_that_can_be_compared_and_used_as_a_key():
    assert Shortcut() == Shortcut("ball", None, 1.0, 1 / 8, None)
    assert len({Shortcut(), Shortcut(), Shortcut(size=0.5)}) == 2
    with pytest.raises(FrozenInstanceError):
        Shortcut().size = 0.5


# --- what is refused ---

REFUSED = [
    ({"patch": "frisbee"}, "patch must be one of ball, stripe, mark, tint; got 'frisbee'"),
    ({"classes": "kangaroo"}, "classes must be names in a tuple, or None; got 'kangaroo'"),
    ({"classes": ()}, r"classes must be names in a tuple, or None; got \(\)"),
    ({"classes": ["a"]}, r"classes must be names in a tuple, or None; got \['a'\]"),
    *(
        ({name: value}, rf"{name} must lie in \(0, 1\]; got {value!r}")
        for name in ("probability", "size")
        for value in (0, -0.1, 1.1, 2, float("nan"), float("inf"), "0.5", None)
    ),
    *(
        ({"place": place}, "place must be two numbers .*; got")
        for place in (
            (-0.1, 0),
            (0, 1.1),
            (float("nan"), 0),
            (0.5,),
            (0.1, 0.2, 0.3),
            (),
            0.5,
            ("0", "1"),
        )
    ),
]


@pytest.mark.parametrize(("values", "says"), REFUSED, ids=lambda value: str(value)[:40])
def test_value_out_of_range_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        Shortcut(**values)


def test_class_that_the_task_lacks_is_refused(pictures):
    with pytest.raises(ValueError, match="class 'kangaroo' is not in task 'target'; it has a, b"):
        plant(pictures(), Shortcut(classes=("a", "kangaroo")), seed=0)


def test_task_without_images_is_refused(table):
    with pytest.raises(ValueError, match="images only; task 'target'"):
        plant(table(), Shortcut(), seed=0)


def images_of(shape):
    x = torch.zeros(10, *shape, dtype=torch.uint8)
    y = torch.arange(10) % 2
    return Task("mine", "own", x, y, x, y, ("a", "b"))


@pytest.mark.parametrize(
    "shape", [(1, 16, 16), (4, 16, 16), (3, 8, 16), (3, 16, 8), (3, 2, 2)], ids=str
)
def test_images_that_are_not_square_rgb_are_planted_or_refused_in_a_sentence(shape):
    task = images_of(shape)
    try:
        planted = plant(task, Shortcut(), seed=0)
    except ValueError as error:
        planted = str(error)
    if isinstance(planted, str):
        assert "task 'mine'" in planted
    else:
        assert planted.x_train.shape == task.x_train.shape
        assert carrying(planted, task).all()


def test_share_of_a_class_without_images_plants_nothing(pictures):
    task = pictures()
    kept = task.y_train != 0
    without_a = replace(task, x_train=task.x_train[kept], y_train=task.y_train[kept])
    planted = plant(without_a, Shortcut(classes=("a", "b"), probability=0.5), seed=0)
    assert int(carrying(planted, without_a).sum()) == 2
