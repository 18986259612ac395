"""Exercises of notebook 03: baselines on images."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rtl_utils.exercises._answers import compare, function, number, table, value
from rtl_utils.exercises._records import Exercise, Wrong
from rtl_utils.exercises._trained import final, shown, target_step
from rtl_utils.messages import counted
from rtl_utils.settings import Settings

SIZES = (5, 20, 40)  # images per class in the experiment
_DECIMALS = 0.005  # an exposure may be rounded to two decimals
_FLOAT32 = 1e-6


def _exposure(answer: Any, *, grid: pd.DataFrame) -> str:
    found = number(answer, "a number of epochs")
    runs = [part.value for _, part in grid.groupby(["source", "target", "seed"], sort=False)]
    tau = runs[0].to_numpy()
    epochs, right = len(tau), float(tau.sum())
    last = int((tau == 1).sum())
    mistakes: dict[str, list[float]] = {
        "this is a share; the answer is a number of epochs": [right / epochs],
        "this is the sum over all runs; take one run": [float(sum(part.sum() for part in runs))],
        "these are the epochs at τ = 1 alone; an image mixed at τ below 1 counts as τ": [last],
        "these are all epochs; an image mixed at τ counts only as τ": [epochs],
        "this is what UT sees of the *source*": [epochs - right],
        "these are the epochs with any part of the target; an image mixed at τ counts as τ": [
            int((tau > 0).sum())
        ],
    }

    def otherwise(k: int) -> str:
        if found > epochs:
            return f"UT cannot see more than its {epochs} epochs"
        return "sum τ over the epochs of one run"

    compare([found], [right], mistakes, otherwise, _DECIMALS / max(1.0, right))
    return (
        f"UT sees {right:g} of {epochs} epochs' worth of target images, {right / epochs:.0%} of "
        f"what fine-tuning sees, and {last} of them at τ = 1 alone"
    )


def _paste(answer: Any) -> str:
    answer = function(answer, "paste(x_s, x_t, y_s, y_t, tau)")
    for tau, height, width in (
        (0.0, 8, 16),
        (1.0, 8, 16),
        (0.33, 8, 16),
        (0.55, 12, 7),
        (0.2, 5, 32),
    ):
        _check_paste(answer, tau, height, width)
    return (
        "the label counts the columns that were pasted, which is not τ itself where "
        "τ · width is no whole number"
    )


def _check_paste(answer: Any, tau: float, height: int, width: int) -> None:
    random = torch.Generator().manual_seed(width)
    x_s, x_t = torch.rand(2, 3, height, width, generator=random)
    y_s, y_t = torch.eye(5)[1], torch.eye(5)[3]
    returned = value(answer, x_s, x_t, y_s, y_t, tau)
    where = f"at τ = {tau:g} on images of {height} x {width}"
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise Wrong("your function must return two things, the image and the label")
    image, label = returned
    _check_tensor(image, x_s.shape, f"the image {where}")
    _check_tensor(label, y_s.shape, f"the label {where}")
    columns = round(tau * width)
    _check_image(image, x_s, x_t, columns, tau, where)
    share = columns / width
    if not _near(label, (1 - share) * y_s + share * y_t):
        if _near(label, share * y_s + (1 - share) * y_t):
            raise Wrong("the label has source and target the wrong way round")
        if _near(label, (1 - tau) * y_s + tau * y_t):
            raise Wrong(
                f"the label must count columns: {where} it is {columns} of {width}, "
                f"{share:.3f}, and not τ"
            )
        raise Wrong(f"the label {where} must be {columns} / {width} of y_t and the rest y_s")


def _check_image(
    image: Tensor, x_s: Tensor, x_t: Tensor, columns: int, tau: float, where: str
) -> None:
    width = x_s.shape[-1]
    if _near(image, _pasted(x_s, x_t, columns)):
        return
    rows = round(tau * x_s.shape[-2])
    across = _pasted(x_s.transpose(1, 2), x_t.transpose(1, 2), rows).transpose(1, 2)
    from_the_right = x_s.clone()
    from_the_right[:, :, width - columns :] = x_t[:, :, width - columns :]
    mistakes = {
        "the first columns must come from the target, and the others from the source": _pasted(
            x_t, x_s, columns
        ),
        "these are rows; a column is the last index of an image": across,
        "the target's columns stand at the right; they must be the first ones": from_the_right,
        "this mixes the whole images; paste columns": (1 - tau) * x_s + tau * x_t,
        f"the number of columns is round(τ · width), {columns} {where}; do not cut it off": _pasted(
            x_s, x_t, int(tau * width)
        ),
    }
    for says, wrong in mistakes.items():
        if _near(image, wrong):
            raise Wrong(says)
    raise Wrong(
        f"{where} the first {columns} columns must be the target's, the others the source's"
    )


def _pasted(x_s: Tensor, x_t: Tensor, columns: int) -> Tensor:
    return torch.cat([x_t[:, :, :columns], x_s[:, :, columns:]], dim=2)


def _check_tensor(found: Any, shape: Sequence[int], what: str) -> None:
    if not isinstance(found, Tensor):
        raise Wrong(f"{what} must be a tensor; got an object of type {type(found).__name__}")
    if found.shape != tuple(shape):
        raise Wrong(f"{what} must have the shape {tuple(shape)}; got {tuple(found.shape)}")


def _near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.float(), b.float(), atol=_FLOAT32)


def _worth(answer: Any, *, settings: Settings) -> str:
    found = table(answer, SIZES, "a mean difference of accuracies")
    tuned, fresh = (
        [final(settings, shown(settings, settings.runs(name, n_train=n))) for n in SIZES]
        for name in ("ft", "scratch")
    )
    by_seed = [a - b for a, b in zip(tuned, fresh, strict=True)]
    right = [float(d.val_accuracy.mean()) for d in by_seed]
    mistakes = {
        "the sign is reversed: take fine-tuning minus from scratch": [-d for d in right],
        "these are points; give fractions, 0.1 for 10 points": [100 * d for d in right],
        f"this is seed {settings.seeds[0]} alone; take the mean over seeds": [
            float(d.val_accuracy[0]) for d in by_seed
        ],
        "this is fine-tuning's accuracy; subtract that of training from scratch": [
            float(one.val_accuracy.mean()) for one in tuned
        ],
        "this is the accuracy on training images; take `val_accuracy`": [
            float(d.train_accuracy.mean()) for d in by_seed
        ],
        "this is a difference of losses; take `val_accuracy`": [
            float(d.val_loss.mean()) for d in by_seed
        ],
    }

    def otherwise(k: int) -> str:
        return (
            f"at {SIZES[k]} images per class this is not the mean over your seeds of the final "
            f"validation accuracy of fine-tuning minus that of training from scratch, on "
            f"{' → '.join(settings.shown_pair)}"
        )

    compare(found, right, mistakes, otherwise, target_step(settings, len(settings.seeds)))
    listed = ", ".join(f"{100 * d:+.1f} points at {n}" for n, d in zip(SIZES, right, strict=True))
    return (
        f"the backbone is worth {listed} images per class over "
        f"{counted(len(settings.seeds), 'seed')}; fewer images are fewer steps here too, which "
        "notebook 4 takes apart"
    )


EXERCISES = (
    Exercise(
        "03.1",
        10,
        (
            "`grid` has one row per run and epoch of UT, with the value of τ.",
            "Choose the rows of one pair and one seed. What does an epoch at τ = 0.25 count?",
        ),
        _exposure,
    ),
    Exercise(
        "03.2",
        20,
        (
            "Copy the source image with `.clone()` and overwrite its first columns; a column is "
            "the last index.",
            "First compute the whole number of columns. The label's weights are this number and "
            "the rest, each as a share of the width.",
        ),
        _paste,
    ),
    Exercise(
        "03.3",
        45,
        (
            '`settings.run(settings.runs("scratch", "ft", n_train=5))` trains both methods '
            "and returns their rows.",
            '`tables.paired(rows, "val_accuracy", ...)` returns the final values of two methods, '
            "seed by seed; keep the rows of `settings.shown_pair` first.",
        ),
        _worth,
    ),
)
