"""Exercises of notebook 04: a tennis ball as a shortcut."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rtl_utils.data import Task, load
from rtl_utils.exercises._answers import by_case, compare, function, table, value, values
from rtl_utils.exercises._records import Exercise, Wrong
from rtl_utils.exercises._trained import final, share_step
from rtl_utils.probing import flip_rate
from rtl_utils.runs import Run
from rtl_utils.settings import Settings

SHARES = (0.3, 0.8, 1.0)  # of the marked class in the experiment
_FLOAT32 = 1e-6  # of a mean of zeros and ones in single precision


_FLIP_MISTAKES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "this is a percentage; return a fraction from 0 to 1": lambda a, b: 100 * flip_rate(a, b),
    "this is a count; divide by the number of images": lambda a, b: len(a) * flip_rate(a, b),
    "this is the share of predictions that *stay*": lambda a, b: 1 - flip_rate(a, b),
    "compare predictions, not logits: a logit may change and the prediction stay": lambda a, b: (
        (a != b).float().mean()
    ),
    "a prediction flips if the largest logit is in another place, whatever the others do": (
        lambda a, b: (a != b).any(1).float().mean()
    ),
    "compare the places of the largest logits, not their values": lambda a, b: (
        (a.amax(1) != b.amax(1)).float().mean()
    ),
    "only the largest logit decides; the order of the others does not count": lambda a, b: (
        (a.argsort(1) != b.argsort(1)).any(1).float().mean()
    ),
    "take the largest logit of each image (a row), not of each class (a column)": lambda a, b: (
        (a.argmax(0) != b.argmax(0)).float().mean()
    ),
    "take the largest logit, not the smallest": lambda a, b: flip_rate(-a, -b),
    "take the largest logit, not the largest absolute value": lambda a, b: flip_rate(
        a.abs(), b.abs()
    ),
    "count a flip once, however far apart the two classes are": lambda a, b: (
        (a.argmax(1) - b.argmax(1)).abs().float().mean()
    ),
}


def _flips(answer: Any) -> str:
    answer = function(answer, "my_flip_rate(clean, planted)")
    cases = _logits()
    found = values(answer, cases, "one number for all images together")
    right = [flip_rate(*case) for case in cases]

    def otherwise(k: int) -> str:
        shape = tuple(cases[k][0].shape)
        return (
            f"for logits of shape {shape} the flip rate is {right[k]:.3f}, "
            f"and your function returns {found[k]:.3f}"
        )

    compare(found, right, by_case(_FLIP_MISTAKES, cases), otherwise, _FLOAT32)
    return (
        "it holds on random logits, on logits that change without a flip, and on a single image; "
        "`probing.flip_rate` gives the same"
    )


def _logits() -> list[tuple[Tensor, Tensor]]:
    """Pairs of logits: random ones, and ones in which much changes and no prediction, or all."""
    random = torch.Generator().manual_seed(0)
    pairs = []
    for n, k in ((31, 5), (7, 3), (40, 2), (12, 10)):
        clean, planted = torch.randn(2, n, k, generator=random)
        planted[: n // 3] = 2 * clean[: n // 3] + 1  # other logits, the same predictions
        pairs.append((clean, planted))
        pairs.append((clean - 10, planted - 10))  # all negative
    clean = torch.randn(9, 4, generator=random)
    places = clean.argmax(1, keepdim=True)
    quiet = [torch.randn(9, 4, generator=random).scatter(1, places, 9.0) for _ in range(2)]
    pairs.append((quiet[0], quiet[1]))  # all but the largest logits change
    pairs.append((quiet[0], quiet[0].roll(1, 1)))  # all flip, and the largest values stay
    pairs += [(clean, clean), (clean[:1], clean[1:2])]
    return pairs


_COUNT_MISTAKES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a pixel counts once, however many of its channels differ": lambda a, b: (a != b).sum(
        (1, 2, 3)
    ),
    "a pixel counts if *any* of its channels differs": lambda a, b: (a != b).all(1).sum((1, 2)),
    "only the first channel is compared": lambda a, b: (a != b)[:, 0].sum((1, 2)),
    "this is a share; count pixels": lambda a, b: (a != b).any(1).float().mean((1, 2)),
    "these are the pixels that stay the same": lambda a, b: (~(a != b).any(1)).sum((1, 2)),
    "a pixel that becomes darker counts too": lambda a, b: (b > a).any(1).sum((1, 2)),
    "a sum or a mean over channels can stay while they change; compare channel by channel": (
        lambda a, b: (a.sum(1) != b.sum(1)).sum((1, 2))
    ),
    "this adds up how much the pixels change; count those that change": lambda a, b: (
        (a.float() - b.float()).abs().sum((1, 2, 3))
    ),
}


def _changed(answer: Any, *, clean: Task, marked: Task) -> str:
    answer = function(answer, "changed(clean, marked), on two batches of images")
    for before, after in _changes():
        _check_counts(answer, before, after, "on random images")
    _check_counts(answer, clean.x_val, marked.x_val, "on the target's validation images")
    counts = _counts(clean.x_val, marked.x_val)
    area = clean.side**2
    least, most = int(counts.min()), int(counts.max())
    return (
        f"on the target the ball changes {least if least == most else f'{least} to {most}'} of "
        f"{area} pixels, {counts.float().mean() / area:.1%} of an image on average"
    )


def _changes() -> list[tuple[Tensor, Tensor]]:
    """Random images before and after: by little and by much, in some channels, or not at all."""
    random = torch.Generator().manual_seed(0)
    pairs = []
    for n, side in ((4, 5), (1, 7), (6, 3)):
        before = torch.randint(2, 254, (n, 3, side, side), generator=random, dtype=torch.uint8)
        after = before.clone()
        chosen = torch.rand(n, 3, side, side, generator=random) < 0.2
        after[chosen] = before[chosen] - 1
        chosen = torch.rand(n, 3, side, side, generator=random) < 0.1
        after[chosen] = 255 - before[chosen]
        before[0, :, 0, 0] = torch.tensor([100, 50, 7])
        after[0, :, 0, 0] = torch.tensor([50, 100, 7])  # of the same sum
        if n > 1:
            after[-1] = before[-1]
        pairs.append((before, after))
    return pairs


def _check_counts(answer: Callable[..., Any], clean: Tensor, marked: Tensor, where: str) -> None:
    returned = value(answer, clean, marked)
    try:
        found = torch.as_tensor(np.asarray(returned, dtype=float))
    except (TypeError, ValueError, RuntimeError):
        raise Wrong("your function must return one number of pixels per image") from None
    if found.shape != (len(clean),):
        raise Wrong(
            f"your function must return one number per image, shape ({len(clean)},); "
            f"got shape {tuple(found.shape)}"
        )
    right = _counts(clean, marked)
    if torch.allclose(found, right.double(), atol=_FLOAT32):
        return
    for says, wrong in _COUNT_MISTAKES.items():
        if torch.allclose(found, wrong(clean, marked).double(), atol=_FLOAT32):
            raise Wrong(says)
    k = int((found != right).int().argmax())
    raise Wrong(
        f"{where} your function counts {found[k]:g} pixels of image {k}, and {int(right[k])} differ"
    )


def _counts(clean: Tensor, marked: Tensor) -> Tensor:
    return (clean != marked).any(1).sum((1, 2))


def _dose(answer: Any, *, example: Run, settings: Settings) -> str:
    found = table(answer, SHARES, "a flip rate")
    if example.source_shortcut is None:
        raise ValueError("example must be a backbone of a source with a shortcut")
    runs = [
        replace(example, source_shortcut=replace(example.source_shortcut, probability=share))
        for share in SHARES
    ]
    measured = final(settings, runs)
    right = measured.flip_rate.tolist()

    def otherwise(k: int) -> str:
        return (
            f"at the share {SHARES[k]:g} this is not the flip rate, on the validation images of "
            f"{example.source}, of the backbone of seed {example.seed} with this `probability`"
        )

    images = len(load(example.dataset, example.source, example.seed).y_val)
    compare(found, right, _dose_mistakes(measured), otherwise, share_step(images))
    listed = ", ".join(
        f"{rate:.0%} at {share:.0%}" for share, rate in zip(SHARES, right, strict=True)
    )
    return (
        f"flips of seed {example.seed}: {listed} of the class marked; ask which images teach the "
        "backbone what the class looks like without a ball"
    )


def _dose_mistakes(measured: pd.DataFrame) -> dict[str, list[float]]:
    """What is wrong -> what then stands at the shares."""
    rates = measured.flip_rate.tolist()
    lost = measured.clean_accuracy - measured.ball_accuracy
    return {
        "these are percentages; give fractions from 0 to 1": [100 * rate for rate in rates],
        "this is the share in the ball's class; take the flip rate": measured.ball_share.tolist(),
        "this is the share in the ball's class without a ball; take the flip rate": (
            measured.clean_share.tolist()
        ),
        "this is an accuracy; take the flip rate": measured.ball_accuracy.tolist(),
        "this is the accuracy without a ball; take the flip rate": measured.clean_accuracy.tolist(),
        "this is the accuracy that the ball costs; take the flip rate": lost.tolist(),
        "the flip rate is the same at every key: change `probability` of the shortcut": (
            rates[-1:] * len(rates)
        ),
        "the shares are the wrong way round": rates[::-1],
    }


EXERCISES = (
    Exercise(
        "04.1",
        10,
        (
            "A prediction is the place of the largest logit in a row.",
            "`argmax` finds the places, one per image. Compare the two lists place by place; the "
            "mean of what is true is a share.",
        ),
        _flips,
    ),
    Exercise(
        "04.2",
        20,
        (
            "The images have the shape (n, channels, height, width). First find out which values "
            "differ, then reduce over channels, then over places.",
            "A pixel counts if one or more of its three channels differ: reduce the channels with "
            "`any`, and only then count places.",
        ),
        _changed,
    ),
    Exercise(
        "04.3",
        45,
        (
            "`example.source_shortcut` is a record with the field `probability`; "
            "`dataclasses.replace` changes one field of a record, of `example` too.",
            "`settings.run([...])` trains the three backbones. Of their rows take the metric "
            '"flip_rate" at the epoch `experiments.FINAL`.',
        ),
        _dose,
    ),
)
