"""Every exercise: its solution passes, and what students do wrong is said in a sentence."""

import ast
import re
from collections import Counter
from dataclasses import replace
from math import ceil, comb, log2

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau, norm, rankdata, t
from sklearn.linear_model import LinearRegression
from small_course import NOTEBOOKS, SOLUTIONS, cells, printed

from rtl_utils import cli, exercises, experiments, headless, probing
from rtl_utils.data import Shortcut, plant

NUMBERS = list(exercises.EXERCISES)
BY_NOTEBOOK = {path.stem[:2]: path for path in SOLUTIONS}
# tiny trainings; what a check compares is the same
SMALL = {"seeds": [0, 1], "epochs": 2, "taus": [0, 1]}
SYNTHETIC = SMALL | {"source_epochs": 1}
IMAGES = SMALL | {"width": [4, 4, 4, 4], "n_train": 20}
CHANGES = {
    "01": SYNTHETIC,
    "02": SYNTHETIC | {"seeds": [0]},
    "03": IMAGES | {"epochs": 4, "taus": [0, 0.5, 0.75, 1]},
    "04": IMAGES,
    "05": IMAGES,
    "06": IMAGES | {"iterations": 1},
    "07": IMAGES | {"iterations": 1},
    "08": IMAGES | {"epochs": 4, "width": [8, 8, 8, 8], "n_train": 50},  # so that all of them flip
    "09": IMAGES | {"epochs": 4, "width": [8, 8, 8, 8], "n_train": 50},
}


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """Number -> (the solution's answer, the notebook's objects), from the code of its cells."""
    done = {}

    def execute(notebook):
        out = str(tmp_path_factory.mktemp("runs"))
        read = headless.default_parameters
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # no other process
            patch.setattr(headless, "default_parameters", lambda p: read(p) | CHANGES[notebook])
            patch.setattr(
                exercises,
                "check",
                lambda number, answer, **context: done.update({number: (answer, context)}),
            )
            namespace = {"out": out}
            for cell in cells(BY_NOTEBOOK[notebook], "code"):
                if "parameters" not in cell.metadata.get("tags", []):
                    exec(cell.source, namespace)

    def get(number):
        if number not in done:
            execute(number[:2])
        return done[number]

    return get


@pytest.mark.parametrize("number", NUMBERS)
def test_solution_is_right_and_none_is_no_answer(number, solved):
    answer, context = solved(number)
    right, says = exercises.judge(number, answer, **context)
    assert right, says
    assert says.startswith("Right: ")
    assert says.endswith(".")
    assert exercises.judge(number, None, **context) == (False, "Not answered yet.")


# --- what students do wrong -----------------------------------------------------------------------


def loss_of(task, columns, split="val"):
    x = {name: getattr(task, f"x_{name}")[:, list(columns)].numpy() for name in ("train", split)}
    y = {name: getattr(task, f"y_{name}").numpy().ravel() for name in ("train", split)}
    model = LinearRegression().fit(x["train"], y["train"])
    return np.square(model.predict(x[split]) - y[split]).mean()


def kept(task, useless):
    return [k for k in range(task.side) if k not in useless]


def wave(explain, frequency, seed=0, feature=0):
    random = np.random.RandomState(seed)
    return explain(lambda x: np.sin(frequency * x[:, 0]), np.zeros(50), 1.0, random)[feature]


def drawn(net, task, samples, seeds=range(5)):
    return np.stack([probing.lime_weights(net, task, range(5), s, samples)[0] for s in seeds])


def paste(x_s, x_t, columns):
    return torch.cat([x_t[:, :, :columns], x_s[:, :, columns:]], 2)


def label(y_s, y_t, share):
    return (1 - share) * y_s + share * y_t


def columns_of(x, tau):
    return round(tau * x.shape[-1])


def in_place(x_s, x_t, y_s, y_t, tau):
    columns = columns_of(x_s, tau)
    x_s[:, :, :columns] = x_t[:, :, :columns]
    return x_s, label(y_s, y_t, columns / x_s.shape[-1])


def each(answer, change):
    """The answer, a dictionary, with every value changed."""
    return {key: change(value) for key, value in answer.items()}


def finals(settings, metric, *methods, **fields):
    """Final values of runs on the shown pair."""
    rows = settings.run(settings.runs(*methods, **fields))
    rows = rows[(rows.epoch == experiments.FINAL) & (rows.metric == metric)]
    return rows[(rows.source == settings.shown_pair[0])].value.to_numpy()


def marked_only(answer, example, settings):
    """Flip rates with the ball on the marked share of images alone, not on every image."""
    net = experiments.network(example, settings.store)
    task = experiments.tasks(example)[0]
    found = {}
    for share in answer:
        shortcut = Shortcut(classes=example.source_shortcut.classes, probability=share)
        ball = plant(task, shortcut, example.seed)
        logits = [net.eval()(x.float()) for x in (task.x_val, ball.x_val)]
        found[share] = probing.flip_rate(*logits)
    return found


def first_seed_rises(answer, settings, sgd):
    size = settings.n_train[0]
    found = {}
    for strength in answer:
        changed = sgd.__class__(**vars(sgd) | {"l1": strength})
        restored, permuted = (
            finals(settings, metric, "ft", n_train=size, sgd=changed)[0]
            for metric in ("restored_loss", "val_loss")
        )
        found[strength] = restored - permuted
    return found


def greedy(c):
    i, j = np.unravel_index(c.argmin(), c.shape)
    return (c[i, j] + c[1 - i, 1 - j]) / 2


def se(a, b):
    return 100 * float((a.double() - b.double()).std()) / len(a) ** 0.5


def apart(a, b):
    p, q = a.double().mean(), b.double().mean()
    return 100 * ((p * (1 - p) + q * (1 - q)) / len(a)) ** 0.5


def off(d):
    """Which entries are those of two different tasks."""
    return ~np.eye(len(d), dtype=bool)


def by(d, divisor):
    """Mean difference of the two ways, over something else than their mean."""
    shares = abs(d - d.T) / np.where(off(d), divisor, 1)
    return shares[off(d)].mean()


def with_diagonal(d):
    return np.nan_to_num(2 * abs(d - d.T) / (d + d.T)).mean()


def order_of(x):
    return np.argsort(x, kind="stable")


def of_ranks(ranks):
    return lambda x, y: np.corrcoef(ranks(x), ranks(y))[0, 1]


def by_squares(x, y):
    n = len(x)
    return 1 - 6 * ((rankdata(x) - rankdata(y)) ** 2).sum() / (n * (n**2 - 1))


def t_of(x, level=0.95):
    return t.ppf(level, len(x) - 1)


def bound(x, quantile):
    return x.mean() + quantile * x.std(ddof=1) / len(x) ** 0.5


def draws(n, spread):
    return np.random.default_rng(1).normal(0, spread, (20_000, n))


def simulated(n, spread, margin, level=0.95, normal=False):
    """Share of experiments whose t statistic says "below the margin"."""
    x = draws(n, spread)
    statistic = (x.mean(1) - margin) / (x.std(1, ddof=1) / n**0.5)
    quantile = norm.ppf(level) if normal else t.ppf(level, n - 1)
    return (statistic < -quantile).mean()


def flips_of(settings, method, **fields):
    size = settings.n_train[0]
    return finals(settings, "flip_rate", method, biased=True, n_train=size, **fields)


def averaged_flips(context, method, share):
    """Flip rates of trainings that end with averaged weights."""
    settings = context["settings"]
    return flips_of(settings, method, sgd=replace(settings.sgd, averaged=float(share)))


def axes(variances, smoothing):
    """What a refit leaves of the weights along principal axes."""
    return variances / (variances + smoothing * variances.mean())


# number -> (what is wrong, (the right answer, the notebook's objects) -> an answer, what is said)
WRONG = {
    "01.1": [
        ("a number", lambda a, c: 22_100, "must be a function"),
        ("no repetition", lambda a, c: comb, "may be chosen more than once"),
        ("ordered", lambda a, c: lambda n, k: n**k, "order does not count"),
        ("up to the degree", lambda a, c: lambda n, k: comb(n + k, k), "up to this degree"),
        ("powers only", lambda a, c: lambda n, k: n * k, "powers of single inputs"),
        ("degree 3 only", lambda a, c: lambda n, k: comb(n + 2, 3), "with 7 inputs and degree 1"),
        ("50 inputs only", lambda a, c: lambda n, k: 22_100, "with 2 inputs and degree 3"),
        ("prints", lambda a, c: lambda n, k: print(a(n, k), end=""), "returns None"),
        ("one argument", lambda a, c: lambda n: n, "raised TypeError"),
    ],
    "01.2": [
        ("a number", lambda a, c: a(c["task"], range(20)), "must be a function"),
        (
            "a difference",
            lambda a, c: lambda t, u: loss_of(t, range(t.side)) - loss_of(t, kept(t, u)),
            "divide it by the loss",
        ),
        ("a ratio", lambda a, c: lambda t, u: a(t, u) + 1, "ratio of 1.1 means 0.1 more"),
        ("percent", lambda a, c: lambda t, u: 100 * a(t, u), "percentage"),
        ("reversed", lambda a, c: lambda t, u: 1 / (1 + a(t, u)) - 1, "the other way round"),
        ("of all", lambda a, c: lambda t, u: 1 - 1 / (1 + a(t, u)), "not by the loss with all"),
        ("always twenty", lambda a, c: lambda t, u: a(t, range(len(u))), "not the first ones"),
        (
            "kept them",
            lambda a, c: lambda t, u: loss_of(t, range(t.side)) / loss_of(t, u) - 1,
            "kept only them",
        ),
        (
            "training data",
            lambda a, c: (
                lambda t, u: (
                    loss_of(t, range(t.side), "train") / loss_of(t, kept(t, u), "train") - 1
                )
            ),
            "on the validation data",
        ),
    ],
    "01.3": [
        ("a list", lambda a, c: list(a.values()), "must be a dictionary"),
        ("a strength is missing", lambda a, c: {0.0: a[0.0]}, "it lacks 0.002, 0.02"),
        ("reversed", lambda a, c: each(a, lambda v: -v), "sign is reversed"),
        ("one seed", lambda a, c: first_seed_rises(a, **c), "seed 0 alone"),
        ("one strength", lambda a, c: each(a, lambda v: a[0.002]), "same at every key"),
        ("nearly", lambda a, c: a | {0.02: a[0.02] + 0.01}, "at λ = 0.02"),
        ("not trained", lambda a, c: a | {0.02: np.nan}, "nan, which is not a finite number"),
    ],
    "02.1": [
        ("the textbook", lambda a, c: lambda r, d: a(r, d) ** 2, "takes its square root"),
        ("one width", lambda a, c: lambda r, d: a(r, 50), "must grow with the number of features"),
        ("no square", lambda a, c: lambda r, d: a(r**0.5, d), "distance enters as its square"),
        (
            "width not squared",
            lambda a, c: lambda r, d: np.exp(-(r**2) / (2 * 0.75 * d**0.5)),
            "width enters as its square",
        ),
        ("0.75 d", lambda a, c: lambda r, d: a(r, d**2), "not 0.75 d"),
        ("grows", lambda a, c: lambda r, d: 1 / a(r, d), "mind the sign"),
        ("an array", lambda a, c: lambda r, d: np.full(3, a(r, d)), "must return one weight"),
    ],
    "02.2": [
        ("a number", lambda a, c: a(3.0), "must be a function"),
        ("the slope", lambda a, c: lambda f: f, "this is the slope at the point"),
        ("feature 1", lambda a, c: lambda f: wave(**c, frequency=f, feature=1), "another feature"),
        ("a seed", lambda a, c: lambda f: wave(**c, frequency=f, seed=1), "RandomState(0)"),
        ("outside", lambda a, c: lambda f: f * a(1.0), "inside the sine"),
        (
            "all weights",
            lambda a, c: lambda f: wave(**c, frequency=f, feature=slice(50)),
            "50 numb",
        ),
        (
            "one random state for all calls",
            lambda a, c: (
                lambda f, random=np.random.RandomState(0): c["explain"](
                    lambda x: np.sin(f * x[:, 0]), np.zeros(50), 1.0, random
                )[0]
            ),
            "two calls with one frequency differ",
        ),
        ("frequency 3", lambda a, c: lambda f: a(3.0), "for the frequency 0.1"),
    ],
    "02.3": [
        ("a number", lambda a, c: a(**c, samples=1_000), "must be a function"),
        ("ddof", lambda a, c: lambda *s: drawn(*s).std(0).mean(), "ddof=1"),
        ("features", lambda a, c: lambda *s: drawn(*s).std(2, ddof=1).mean(), "over features"),
        ("points", lambda a, c: lambda *s: drawn(*s).std(1, ddof=1).mean(), "over points"),
        ("mean weight", lambda a, c: lambda *s: np.abs(drawn(*s)).mean(), "the mean |weight|"),
        ("variance", lambda a, c: lambda *s: drawn(*s).var(0, ddof=1).mean(), "square roots"),
        ("one seed", lambda a, c: lambda *s: drawn(*s, [0] * 5).std(0).mean(), "do not differ"),
        (
            "global task",
            lambda a, c: lambda n, t, s: a(**c, samples=s),
            "the task that it is given",
        ),
        ("fixed", lambda a, c: lambda n, t, s: a(n, t, 1_000), "as `samples` says"),
    ],
    "03.1": [
        ("a share", lambda a, c: a / 4, "this is a share"),
        ("all runs", lambda a, c: c["grid"].value.sum(), "sum over all runs"),
        ("all epochs", lambda a, c: 4, "counts only as τ"),
        ("too many", lambda a, c: 77, "cannot see more than its 4 epochs"),
        ("nearly", lambda a, c: a - 0.2, "sum τ over the epochs of one run"),
        ("text", lambda a, c: "2 epochs", "must be a number of epochs"),
        ("a column", lambda a, c: c["grid"].value, "got 8 numbers"),
    ],
    "03.2": [
        ("image alone", lambda a, c: lambda *s: a(*s)[0], "two things"),
        ("swapped", lambda a, c: lambda s, t, y, z, w: a(t, s, z, y, w), "first columns must come"),
        ("labels swapped", lambda a, c: lambda s, t, y, z, w: a(s, t, z, y, w), "wrong way round"),
        (
            "label of tau",
            lambda a, c: lambda s, t, y, z, w: (a(s, t, y, z, w)[0], label(y, z, w)),
            "must count columns",
        ),
        (
            "rows",
            lambda a, c: (
                lambda s, t, y, z, w: (
                    a(s.transpose(1, 2), t.transpose(1, 2), y, z, w)[0].transpose(1, 2),
                    a(s, t, y, z, w)[1],
                )
            ),
            "these are rows",
        ),
        (
            "at the right",
            lambda a, c: (
                lambda s, t, y, z, w: (
                    a(s.flip(2), t.flip(2), y, z, w)[0].flip(2),
                    a(s, t, y, z, w)[1],
                )
            ),
            "stand at the right",
        ),
        (
            "mixed",
            lambda a, c: lambda s, t, y, z, w: ((1 - w) * s + w * t, label(y, z, w)),
            "mixes the whole images",
        ),
        (
            "cut off",
            lambda a, c: (
                lambda s, t, y, z, w: (
                    paste(s, t, int(w * s.shape[-1])),
                    a(s, t, y, z, w)[1],
                )
            ),
            "do not cut it off",
        ),
        ("in place", lambda a, c: in_place, "changes what it is given"),
        ("a number", lambda a, c: lambda *s: (a(*s)[0], 0.3), "the label at τ = 0"),
    ],
    "03.3": [
        ("one number", lambda a, c: a[5], "must be a dictionary"),
        ("other sizes", lambda a, c: {10: 0.1, 20: a[20]}, "it lacks 5, 40"),
        ("reversed", lambda a, c: each(a, lambda v: -v), "sign is reversed"),
        ("points", lambda a, c: each(a, lambda v: 100 * v), "these are points"),
        (
            "one seed",
            lambda a, c: {
                n: np.subtract(
                    *finals(c["settings"], "val_accuracy", "ft", "scratch", n_train=n)[[0, 2]]
                )
                for n in a
            },
            "seed 0 alone",
        ),
        (
            "fine-tuning alone",
            lambda a, c: {
                n: finals(c["settings"], "val_accuracy", "ft", n_train=n).mean() for n in a
            },
            "subtract that of training from scratch",
        ),
        ("one image off", lambda a, c: a | {40: a[40] + 1 / 500}, "at 40 images per class"),
    ],
    "04.1": [
        ("any logit", lambda a, c: lambda x, y: (x != y).any(1).float().mean(), "whatever the oth"),
        ("logits", lambda a, c: lambda x, y: (x != y).float().mean(), "compare predictions"),
        (
            "order",
            lambda a, c: lambda x, y: (x.argsort() != y.argsort()).any(1).float().mean(),
            "order of the others",
        ),
        ("columns", lambda a, c: lambda x, y: a(x.T, y.T), "not of each class"),
        ("smallest", lambda a, c: lambda x, y: a(-x, -y), "not the smallest"),
        ("absolute", lambda a, c: lambda x, y: a(x.abs(), y.abs()), "absolute value"),
        ("stay", lambda a, c: lambda x, y: 1 - a(x, y), "that *stay*"),
        ("a count", lambda a, c: lambda x, y: len(x) * a(x, y), "this is a count"),
        ("percent", lambda a, c: lambda x, y: 100 * a(x, y), "percentage"),
        (
            "how far",
            lambda a, c: lambda x, y: (x.argmax(1) - y.argmax(1)).abs().float().mean(),
            "count a flip once",
        ),
        ("values", lambda a, c: lambda x, y: (x.amax(1) != y.amax(1)).float().mean(), "not their"),
        ("per image", lambda a, c: lambda x, y: (x.argmax(1) != y.argmax(1)).float(), "31 numbers"),
        ("a constant", lambda a, c: lambda x, y: 0.5, "the flip rate is"),
        ("thirds", lambda a, c: lambda x, y: a(x[10:], y[10:]) * 21 / 31, "your function"),
        ("rounded", lambda a, c: lambda x, y: round(a(x, y), 1), "the flip rate is"),
    ],
    "04.2": [
        ("a number", lambda a, c: 9, "must be a function"),
        ("channels", lambda a, c: lambda x, y: (x != y).sum((1, 2, 3)), "counts once"),
        ("all channels", lambda a, c: lambda x, y: (x != y).all(1).sum((1, 2)), "*any*"),
        ("first", lambda a, c: lambda x, y: (x != y)[:, 0].sum((1, 2)), "only the first channel"),
        ("brighter", lambda a, c: lambda x, y: (y > x).any(1).sum((1, 2)), "darker counts too"),
        (
            "sums",
            lambda a, c: lambda x, y: (x.sum(1) != y.sum(1)).sum((1, 2)),
            "compare channel by channel",
        ),
        ("shares", lambda a, c: lambda x, y: a(x, y) / x[0, 0].numel(), "this is a share"),
        ("stay", lambda a, c: lambda x, y: x[0, 0].numel() - a(x, y), "stay the same"),
        ("one for all", lambda a, c: lambda x, y: a(x, y).sum(), "one number per image"),
        (
            "large changes",
            lambda a, c: lambda x, y: ((x.int() - y.int()).abs() > 10).any(1).sum((1, 2)),
            "on random images your function counts",
        ),
        ("nine", lambda a, c: lambda x, y: torch.full((len(x),), 9), "your function counts 9"),
    ],
    "04.3": [
        ("one rate", lambda a, c: a[1.0], "must be a dictionary"),
        ("percent", lambda a, c: each(a, lambda v: 100 * v), "percentages"),
        ("one network", lambda a, c: each(a, lambda v: a[1.0]), "same at every key"),
        ("reversed", lambda a, c: dict(zip(a, reversed(a.values()), strict=True)), "wrong way"),
        ("planted on the share", lambda a, c: marked_only(a, **c), "at the share 0.3"),
        ("one image off", lambda a, c: a | {0.8: a[0.8] + 1 / 270}, "at the share 0.8"),
        ("stays", lambda a, c: each(a, lambda v: 1 - v), "at the share 0.3"),
    ],
    "05.1": [
        ("a number", lambda a, c: 6, "must be a function"),
        ("six", lambda a, c: lambda level: 6, "6 for every level"),
        ("too many", lambda a, c: lambda level: a(level) + 1, "one seed too many"),
        ("too few", lambda a, c: lambda level: int(1 - log2(level)), "one seed too few"),
        ("not above", lambda a, c: lambda level: ceil(1 - log2(level)), "below means below"),
        (
            "one-sided",
            lambda a, c: lambda level: next(n for n in range(1, 99) if 0.5**n < level),
            "it is 2 · 2⁻ⁿ, not 2⁻ⁿ",
        ),
        ("no whole number", lambda a, c: lambda level: 1 - log2(level), "is a whole number"),
    ],
    "05.2": [
        ("a fraction", lambda a, c: lambda x, y: se(x, y) / 100, "in points"),
        ("independent", lambda a, c: apart, "different images"),
        (
            "one method",
            lambda a, c: lambda x, y: se(x, torch.zeros_like(x)),
            "first accuracy alone",
        ),
        ("spread", lambda a, c: lambda x, y: se(x, y) * len(x) ** 0.5, "divide by √n"),
        ("by n", lambda a, c: lambda x, y: se(x, y) / len(x) ** 0.5, "not by n"),
        (
            "the difference",
            lambda a, c: lambda x, y: 100 * (x.double().mean() - y.double().mean()),
            "the difference itself",
        ),
        ("disagreement", lambda a, c: lambda x, y: se(x != y, torch.zeros_like(x)), "two values"),
        (
            "no mean",
            lambda a, c: lambda x, y: 100 * (x != y).sum().sqrt() / len(x),
            "subtract the square of the mean",
        ),
        ("subtracts booleans", lambda a, c: lambda x, y: (x - y).std(), "raised RuntimeError"),
    ],
    "05.3": [
        ("a list", lambda a, c: list(a.values()), "must be a dictionary"),
        ("one seed", lambda a, c: {0: a[0]}, "it lacks 1"),
        ("reversed", lambda a, c: each(a, lambda v: -v), "sign is reversed"),
        ("points", lambda a, c: each(a, lambda v: 100 * v), "these are points"),
        ("the mean", lambda a, c: each(a, lambda v: np.mean([*a.values()])), "this is their mean"),
        (
            "not subtracted",
            lambda a, c: dict(enumerate(of_ut(c["settings"], "val_accuracy", biased=False))),
            "subtract those from the biased source",
        ),
        (
            "training images",
            lambda a, c: dict(
                enumerate(
                    of_ut(c["settings"], "train_accuracy", biased=False)
                    - of_ut(c["settings"], "train_accuracy", biased=True)
                )
            ),
            "on training images",
        ),
        ("one image off", lambda a, c: a | {1: a[1] + 1 / 269}, "for seed 1"),
    ],
    "06.1": [
        ("a number", lambda a, c: 1, "must be a function"),
        ("whole mass", lambda a, c: lambda m: 2 * a(m), "counts half"),
        ("rows", lambda a, c: lambda m: m.min(1).mean(), "two sources share a target"),
        ("columns", lambda a, c: lambda m: m.min(0).mean(), "two targets share a source"),
        ("one pair", lambda a, c: lambda m: m.min(), "cheapest pair alone"),
        ("product", lambda a, c: lambda m: m.mean(), "product coupling"),
        ("greedy", lambda a, c: greedy, "compare whole matches"),
        ("straight", lambda a, c: lambda m: (m[0, 0] + m[1, 1]) / 2, "matches straight"),
        ("dearer", lambda a, c: lambda m: -a(-m), "the dearer"),
        ("the example", lambda a, c: lambda m: 1.0, "the cheapest coupling costs"),
    ],
    "06.2": [
        ("half", lambda a, c: lambda p, q: a(p, q) / 2, "twice as long"),
        ("chord", lambda a, c: lambda p, q: 2 * np.linalg.norm(p**0.5 - q**0.5), "straight line"),
        ("no root", lambda a, c: lambda p, q: 2 * np.arccos(min(p @ q, 1)), "not p and q"),
        ("coin", lambda a, c: lambda p, q: a(*([x[0], 1 - x[0]] for x in (p, q))), "first class"),
        ("not clipped", lambda a, c: lambda p, q: 2 * np.arccos(p**0.5 @ q**0.5), "returns nan"),
        ("degrees", lambda a, c: lambda p, q: np.degrees(a(p, q)), "in radians"),
        (
            "one step",
            lambda a, c: (
                lambda p, q: (2 * max((p * np.log((p + 1e-300) / (q + 1e-300))).sum(), 0)) ** 0.5
            ),
            "only where q is near",
        ),
        ("the coin's number", lambda a, c: 0.9273, "must be a function"),
    ],
    "06.3": [
        ("a number", lambda a, c: a[1], "must be a dictionary"),
        ("one cut", lambda a, c: {1: a[1]}, "it lacks 2"),
        ("means", lambda a, c: {k: v / k for k, v in a.items()}, "these are means over"),
        ("divided", lambda a, c: {k: v / k**2 for k, v in a.items()}, "multiply instead"),
        ("exchanged", lambda a, c: dict(zip(a, reversed(a.values()), strict=True)), "exchanged"),
        ("one number", lambda a, c: each(a, lambda v: a[1]), "the same number"),
        (
            "one seed",
            lambda a, c: {
                k: k
                * finals(c["settings"], "information_length", "ut", n_train=20, partitions=k)[0]
                for k in a
            },
            "seed 0 alone",
        ),
        ("nearly", lambda a, c: a | {2: a[2] + 0.01}, "for 2 partitions this is not"),
    ],
    "07.1": [
        ("a number", lambda a, c: 0.2, "must be a function"),
        ("with the diagonal", lambda a, c: with_diagonal, "leave the diagonal out"),
        ("nan", lambda a, c: lambda d: (abs(d - d.T) / (d + d.T)).mean(), "0 is divided by 0"),
        ("by the sum", lambda a, c: lambda d: a(d) / 2, "not by their sum"),
        ("by the longer", lambda a, c: lambda d: by(d, np.maximum(d, d.T)), "longer way"),
        ("by all", lambda a, c: lambda d: by(d, d[off(d)].mean()), "whole matrix"),
        ("not divided", lambda a, c: lambda d: by(d, 1), "in the unit of the distance"),
        ("signed", lambda a, c: lambda d: (d - d.T)[off(d)].mean(), "both signs cancel"),
        ("a sum", lambda a, c: lambda d: a(d) * len(d) * (len(d) - 1) / 2, "this is the sum"),
        ("percent", lambda a, c: lambda d: 100 * a(d), "percentage"),
        ("by one way", lambda a, c: lambda d: by(d, d), "the asymmetry is"),
        ("no zero", lambda a, c: lambda d: a(d) or 0.1, "has asymmetry 0"),
    ],
    "07.2": [
        ("a number", lambda a, c: 1.0, "must be a function"),
        ("values", lambda a, c: lambda x, y: np.corrcoef(x, y)[0, 1], "correlation of the values"),
        ("ordinal", lambda a, c: of_ranks(lambda x: order_of(order_of(x))), "share one rank"),
        ("smallest", lambda a, c: of_ranks(lambda x: [(x < v).sum() for v in x]), "the smallest"),
        ("largest", lambda a, c: of_ranks(lambda x: [(x <= v).sum() for v in x]), "the largest"),
        ("dense", lambda a, c: of_ranks(lambda x: np.unique(x, return_inverse=True)[1]), "a gap"),
        ("order", lambda a, c: of_ranks(np.argsort), "apply it twice"),
        ("squares", lambda a, c: by_squares, "only without equal values"),
        ("Kendall", lambda a, c: lambda x, y: kendalltau(x, y).statistic, "Kendall"),
        ("reversed", lambda a, c: lambda x, y: -a(x, y), "sign is reversed"),
        ("absolute", lambda a, c: lambda x, y: abs(a(x, y)), "has a sign"),
        ("squared", lambda a, c: lambda x, y: a(x, y) ** 2, "square of the correlation"),
        ("in place", lambda a, c: lambda x, y: (x.sort(), a(x, y))[1], "changes what it is given"),
    ],
    "07.3": [
        ("a tuple", lambda a, c: tuple(a.values()), "must be a dictionary"),
        ("one kind", lambda a, c: {"fine-tuning": a["fine-tuning"]}, "it lacks 'riemannian'"),
        ("upside down", lambda a, c: each(a, lambda v: 1 / v), "wrong way round"),
        ("exchanged", lambda a, c: dict(zip(a, reversed(a.values()), strict=True)), "exchanged"),
        ("the same", lambda a, c: each(a, lambda v: 1.0), "learning rate is the same"),
        ("nearly", lambda a, c: each(a, lambda v: v + 0.01), "for 'fine-tuning' this is not"),
    ],
    "08.1": [
        ("a number", lambda a, c: 2.0, "must be a function"),
        ("two-sided", lambda a, c: lambda x: bound(x, t_of(x, 0.975)), "on one side"),
        ("lower", lambda a, c: lambda x: bound(x, t_of(x, 0.05)), "the upper one"),
        ("normal", lambda a, c: lambda x: bound(x, norm.ppf(0.95)), "with few values"),
        ("1.96", lambda a, c: lambda x: bound(x, 1.96), "two-sided interval of many"),
        ("ddof", lambda a, c: lambda x: x.mean() + t_of(x) * x.std() / len(x) ** 0.5, "ddof=1"),
        ("one value", lambda a, c: lambda x: x.mean() + t_of(x) * x.std(ddof=1), "one more value"),
        ("by n", lambda a, c: lambda x: x.mean() + t_of(x) * x.std(ddof=1) / len(x), "not by n"),
        ("freedom", lambda a, c: lambda x: bound(x, t.ppf(0.95, len(x))), "degrees of freedom"),
        ("half-width", lambda a, c: lambda x: a(x) - x.mean(), "added to the mean"),
        ("mean", lambda a, c: lambda x: x.mean(), "the mean alone"),
        ("nearly", lambda a, c: lambda x: a(x) + 0.01, "the bound is"),
    ],
    "08.2": [
        ("a number", lambda a, c: 0.3, "must be a function"),
        ("two-sided", lambda a, c: lambda n, s, m: simulated(n, s, m, 0.975), "one-sided"),
        ("no margin", lambda a, c: lambda n, s, m: simulated(n, s, 0), "whatever the margin"),
        ("not", lambda a, c: lambda n, s, m: 1 - a(n, s, m), "does *not* say so"),
        ("percent", lambda a, c: lambda n, s, m: 100 * a(n, s, m), "percentage"),
        ("normal", lambda a, c: lambda n, s, m: simulated(n, s, m, normal=True), "Student's t"),
        ("variance", lambda a, c: lambda n, s, m: a(n, s**0.5, m), "not a variance"),
        (
            "means",
            lambda a, c: lambda n, s, m: (draws(n, s).mean(1) < m).mean(),
            "the test must say so",
        ),
        ("above", lambda a, c: lambda n, s, m: simulated(n, s, -m), "mind the sign"),
        ("one seed count", lambda a, c: lambda n, s, m: a(10, s, m), "with 3 seeds"),
    ],
    "08.3": [
        ("one number", lambda a, c: a[0.5], "must be a dictionary"),
        ("other shares", lambda a, c: {0.5: a[0.5]}, "it lacks 0.25, 0.75"),
        ("reversed", lambda a, c: each(a, lambda v: -v), "sign is reversed"),
        ("points", lambda a, c: each(a, lambda v: 100 * v), "these are points"),
        (
            "not subtracted",
            lambda a, c: each(a, lambda v: v + flips_of(c["settings"], "scratch").mean()),
            "subtract those of training from scratch",
        ),
        (
            "fine-tuning",
            lambda a, c: each(
                a,
                lambda v: (
                    v
                    + flips_of(c["settings"], "scratch").mean()
                    - flips_of(c["settings"], "ft").mean()
                ),
            ),
            "compared with fine-tuning",
        ),
        (
            "one seed",
            lambda a, c: {
                k: flips_of(c["settings"], "wise-ft", backbone_share=k)[0]
                - flips_of(c["settings"], "scratch")[0]
                for k in a
            },
            "seed 0 alone",
        ),
        ("one image off", lambda a, c: a | {0.5: a[0.5] + 1 / 500}, "at the share 0.5"),
    ],
    "09.1": [
        ("a number", lambda a, c: 0.4, "must be a function"),
        ("not squared", lambda a, c: lambda v, s: axes(v, s).mean(), "adds up their squares"),
        ("squared last", lambda a, c: lambda v, s: axes(v, s).mean() ** 2, "square first"),
        ("sum", lambda a, c: lambda v, s: a(v, s * len(v)), "not their sum"),
        ("smoothing", lambda a, c: lambda v, s: a(v, s / v.mean()), "the smoothing alone"),
        ("largest", lambda a, c: lambda v, s: a(v, s * v.max() / v.mean()), "the largest one"),
        ("lost", lambda a, c: lambda v, s: 1 - a(v, s), "what it keeps"),
        ("norm", lambda a, c: lambda v, s: a(v, s) ** 0.5, "the squared norm"),
        ("added", lambda a, c: lambda v, s: (axes(v, s) ** 2).sum(), "divide by their number"),
        ("nearly", lambda a, c: lambda v, s: a(v, s) + 0.01, "the filter keeps"),
    ],
    "09.2": [
        ("a number", lambda a, c: 0.4, "must be a function"),
        ("inside", lambda a, c: lambda w, x: 1 - a(w, x), "give the other one"),
        ("norm", lambda a, c: lambda w, x: a(w, x) ** 0.5, "square it"),
        ("centred", lambda a, c: lambda w, x: a(w, x - x.mean(0)), "do not centre"),
        ("directions", lambda a, c: lambda w, x: a(np.eye(x.shape[1]), x), "weigh them"),
        ("sum", lambda a, c: lambda w, x: a(w, x) * (w**2).sum(), "divide by that of all"),
        ("columns", lambda a, c: lambda w, x: (w[:, ~x.any(0)] ** 2).sum() / (w**2).sum(), "mixt"),
        ("nearly", lambda a, c: lambda w, x: a(w, x) + 0.01, "onto the span"),
    ],
    "09.3": [
        ("one number", lambda a, c: a[0.5], "must be a dictionary"),
        ("other shares", lambda a, c: {0.5: a[0.5]}, "it lacks 0, 0.25"),
        ("reversed", lambda a, c: each(a, lambda v: -v), "sign is reversed"),
        ("points", lambda a, c: each(a, lambda v: 100 * v), "these are points"),
        (
            "not subtracted",
            lambda a, c: {k: averaged_flips(c, "ft", k).mean() for k in a},
            "subtract those of training from scratch",
        ),
        (
            "last weights",
            lambda a, c: {
                k: averaged_flips(c, "ft", k).mean() - averaged_flips(c, "scratch", 0).mean()
                for k in a
            },
            "must be averaged too",
        ),
        (
            "one seed",
            lambda a, c: {
                k: averaged_flips(c, "ft", k)[0] - averaged_flips(c, "scratch", k)[0] for k in a
            },
            "seed 0 alone",
        ),
        ("one image off", lambda a, c: a | {0.5: a[0.5] + 1 / 500}, "at the share 0.5"),
    ],
}


def of_ut(settings, metric, biased):
    fields = {"target_shortcut": Shortcut(), "n_train": settings.n_train[0]}
    return finals(settings, metric, "ut", biased=biased, **fields)


def test_every_exercise_has_four_wrong_answers_or_more():
    assert list(WRONG) == NUMBERS
    assert min(map(len, WRONG.values())) >= 4


@pytest.mark.parametrize(
    ("number", "make", "says"),
    [
        pytest.param(number, make, says, id=f"{number} {name}")
        for number, answers in WRONG.items()
        for name, make, says in answers
    ],
)
def test_wrong_answer_gets_a_sentence_that_names_what_is_wrong(number, make, says, solved):
    answer, context = solved(number)
    right, sentence = exercises.judge(number, make(answer, context), **context)
    assert not right
    assert re.fullmatch(r"Not yet: [^\n]+\.", sentence)
    assert says in sentence


class Odd:
    """An answer of no use, which fails whatever is done with it."""

    def __float__(self):
        raise RuntimeError("no number")

    def __array__(self, *_, **__):
        raise RuntimeError("no array")


@pytest.mark.parametrize("number", NUMBERS)
def test_answer_of_another_type_gets_a_sentence(number, solved):
    _, context = solved(number)
    kinds = (True, "text", 1.5, 10**400, [1, 2], {"a": 1}, {0.0: "x"}, np.ones(3), torch.ones(2, 2))
    for odd in (*kinds, pd.Series([1.0]), {1}, b"x", 1j, Odd(), int, len, lambda *_: Odd()):
        right, sentence = exercises.judge(number, odd, **context)
        assert not right, odd
        assert re.fullmatch(r"Not yet: [^\n]+\.", sentence)


def test_check_prints_one_line_and_raises_nothing_on_a_wrong_answer(capsys):
    exercises.check("05.1", None)
    exercises.check("05.1", lambda level: 1 / 0)
    exercises.check("05.1", 6)
    none, failed, number = capsys.readouterr().out.splitlines()
    assert none == "Not answered yet."
    assert (
        failed == "Not yet: your function raised ZeroDivisionError (division by zero) for (0.05)."
    )
    assert number.startswith("Not yet: the answer must be a function, needed(level)")


@pytest.mark.parametrize("call", [exercises.check, exercises.judge, exercises.hint])
def test_unknown_number_is_refused_with_those_that_there_are(call):
    for number in ("04.9", 4.1):
        with pytest.raises(ValueError, match=r"one of 01\.1, 01\.2, .*09\.3; got '?4?0?4"):
            call(number, 1)


def test_hints_come_one_after_the_other(capsys, monkeypatch):
    monkeypatch.setattr(exercises, "_asked", Counter())
    first, second = exercises.EXERCISES["04.1"].hints
    for _ in range(3):
        exercises.hint("04.1")
    exercises.hint("04.1", 1)
    said = [f"Hint 1 of 2: {first}", *[f"Hint 2 of 2: {second}"] * 2, f"Hint 1 of 2: {first}"]
    assert capsys.readouterr().out.splitlines() == said
    for step in (0, 3, "1", True):
        with pytest.raises(ValueError, match="step must be 1 or 2, or None for the next; got"):
            exercises.hint("04.1", step)


# --- notebooks and solutions ----------------------------------------------------------------------


def calls(path):
    """Number -> the source of the answer's expression, of each call of exercises.check."""
    found = {}
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "exercises.check":
                found[ast.literal_eval(node.args[0])] = ast.unparse(node.args[1])
    return found


@pytest.mark.parametrize("notebook", BY_NOTEBOOK)
def test_notebook_and_solutions_ask_the_same_three_levels(notebook):
    (path,) = [path for name, path in NOTEBOOKS.items() if name.startswith(notebook)]
    mine = {n: e for n, e in exercises.EXERCISES.items() if n.startswith(notebook)}
    assert [exercise.minutes for exercise in mine.values()] == [10, 20, 45]
    asked, answered = calls(path), calls(BY_NOTEBOOK[notebook])
    assert list(asked) == list(answered) == list(mine)
    assert asked == answered  # the same names
    code = "\n".join(cell.source for cell in cells(path, "code"))
    prose = "\n".join(cell.source for cell in cells(path, "markdown"))
    for number, name in asked.items():
        assert re.search(rf"^{name} = None  # your answer", code, re.M)
        assert f"**{number} ({mine[number].minutes} minutes" in prose
        assert f'exercises.hint("{number}")' in prose


@pytest.mark.parametrize("number", NUMBERS)
def test_two_hints_do_not_hold_the_answer(number):
    exercise = exercises.EXERCISES[number]
    assert len(set(exercise.hints)) == 2
    assert all(len(hint) > 40 for hint in exercise.hints)
    code = "\n".join(cell.source for cell in cells(BY_NOTEBOOK[number[:2]], "code"))
    name = calls(BY_NOTEBOOK[number[:2]])[number]
    lines = [line.strip() for line in code.splitlines() if len(line.strip()) > 10]
    decisive = [re.sub(r"^return ", "", line) for line in lines if line.startswith("return ")]
    decisive += [line for line in lines if line.startswith((name, "while "))]
    for line in decisive:
        bare = re.sub(r"[\s`]", "", line)
        assert not any(bare in re.sub(r"[\s`]", "", hint) for hint in exercise.hints), line


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_are_stored_with_their_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    current = headless.source_hash(notebook.cells)
    assert notebook.metadata.rtl.executed_from == current, "call `make refresh`"
    said = [line.split(":")[0] for line in printed(path).splitlines()]
    assert said.count("Right") == 3
    assert "Not yet" not in said
    assert "from None" not in str(notebook)
    assert headless.default_parameters(path) == {"out": "runs"}, "the defaults are the notebook's"


def test_refresh_executes_a_notebook_and_its_solutions(monkeypatch):
    executed = []
    monkeypatch.setattr(headless, "refresh", lambda path, folder: executed.append((path, folder)))
    assert cli.main(["refresh", "--notebook", "04"]) == 0
    (notebook, solution) = executed
    assert notebook[0] == NOTEBOOKS["04_tennis_ball_bias"]
    assert solution[0] == BY_NOTEBOOK["04"]
    assert notebook[1] != solution[1]  # they have one name
