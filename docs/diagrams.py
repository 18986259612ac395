"""Draw the concept diagrams of the course into notebooks/images/, with a page that shows them all.

`make results` calls it.

All lengths are inches on a sheet that is as wide as a phone shows: its smallest letters still have
ten pixels where the picture is 390 pixels wide. The digits are scikit-learn's own, without the
clutter of the course's images, so that they can be read at this size.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from rtl_utils import plotting
from rtl_utils.data import Shortcut
from rtl_utils.data.shortcuts import blend_patch

FOLDER = Path(__file__).resolve().parent.parent / "notebooks" / "images"
WIDTH = 5.2  # of every sheet
SMALL = 9.5  # points; the smallest letters
TAUS = (0, 0.25, 0.5, 0.75, 1)
SOURCE_COLOUR, TARGET_COLOUR = "#444444", "#BBBBBB"
FAINT = "#F3F1EC"  # behind what belongs together
LINE = "#666666"
CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
BALL = Shortcut(size=1 / 3)
CORNERS = ((0, 8), (8, 0), (8, 8))  # top left corners of a ball
# images of each digit in scikit-learn's set that can be read at a glance
CLEAR = {
    0: (0, 3),
    1: (5,),
    2: (13, 15),
    3: (6,),
    4: (0, 13, 10),
    5: (10, 13),
    6: (0, 14),
    7: (0, 5),
    8: (13, 15),
    9: (12, 5),
}


class Diagram(NamedTuple):
    """A diagram.

    Args:
        title: on the page of all diagrams.
        draw: makes the figure.
        alt: what it shows, for those who cannot see it. Whoever links it says this.
    """

    title: str
    draw: Callable[[], Figure]
    alt: str


def diagrams() -> dict[str, Diagram]:
    """File name without its ending -> diagram."""
    return {
        "course": Diagram(
            "The course",
            course,
            "The course as one experiment in four stages. A source with a ball on every 4 "
            "(notebook 1: a task whose useless features are known). A backbone that predicts 4 for "
            "the digit or for the ball (notebook 2: LIME; notebook 9: what it cannot forget). "
            "Transfer along a path from tau = 0 to 1 (notebook 3: without a shortcut; notebook 6: "
            "coupled transfer; notebook 7: distances of tasks). A test whether the ball flips "
            "predictions (notebook 4: the ball appears in the test only; notebook 5: it is on "
            "every target image; notebook 8: which method passes). Notebook 0 does the whole "
            "experiment in plain code.",
        ),
        "path": Diagram(
            "The path",
            path,
            "A path in five steps. The image of a 4 with a ball turns into the image of a 7: at "
            "tau = 0 it is the 4 alone, at tau = 0.5 both shine through, at tau = 1 it is the 7 "
            "alone. The ball fades, and the label moves from all 4 to all 7. Fine-tuning trains at "
            "tau = 1 only, uncoupled transfer at all five values.",
        ),
        "methods": Diagram(
            "Three methods",
            methods,
            "Three methods side by side. Fine-tuning trains on target images alone, with tau = 1 "
            "in all epochs. Uncoupled transfer mixes any source image with any target image. "
            "Coupled transfer mixes pairs that the network finds alike. In both of these tau "
            "climbs from 0 to 1 over the epochs, through five values.",
        ),
        "two-tests": Diagram(
            "Two tests of a shortcut",
            two_tests,
            "Two tests of one backbone, whose images had a ball on every 4. In the paper's test "
            "the transfer and the test have a ball on every image, and accuracy is measured. In "
            "Salman's test the transfer has clean images, each test image is shown without and "
            "with the ball, and the predictions that change are counted.",
        ),
        "lime": Diagram(
            "LIME",
            lime,
            "LIME in four steps. Left: a curve, the network's output over a feature, a point on "
            "it, perturbed points around it, larger where they are nearer, and the straight line "
            "fitted to them. Right: the explanation, one bar per feature: three used features have "
            "weights, two unused features have almost none.",
        ),
    }


def main() -> None:
    """Write every diagram, and the page."""
    plotting.use_style()
    FOLDER.mkdir(exist_ok=True)
    for name, diagram in diagrams().items():
        figure = diagram.draw()
        figure.savefig(FOLDER / f"{name}.png", dpi=150)
        plt.close(figure)
    (FOLDER / "README.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """The page of all diagrams."""
    lines = [
        "# Diagrams",
        "",
        "The concepts of the course, for notebooks and slides. Drawn by `docs/diagrams.py`.",
    ]
    for name, diagram in diagrams().items():
        lines += ["", f"## {diagram.title}", "", f"![{diagram.alt}]({name}.png)"]
    return "\n".join(lines) + "\n"


def path() -> Figure:
    """One pair of images on the path, its label, and where two methods train."""
    figure, ax = sheet(3.55)
    start, end = digit(4, ball=True), digit(7)
    side = 0.86
    centres = np.linspace(0.6, WIDTH - 0.6, len(TAUS))
    for tau, x in zip(TAUS, centres, strict=True):
        write(ax, x, 3.2, f"τ = {tau:g}", size=11)
        picture(ax, (1 - tau) * start + tau * end, x - side / 2, 2.12, side)
        bar(ax, x - side / 2, 1.68, side, tau)
    write(ax, centres[0], 3.41, "source", weight="bold")
    write(ax, centres[-1], 3.41, "target", weight="bold")
    arrow(ax, (centres[0] + 0.4, 3.41), (centres[-1] - 0.4, 3.41))
    write(ax, centres[0] - side / 2, 2.0, "the label: share of “4” and of “7”", left=True)
    rows = {"ft": ("fine-tuning trains here", (1,)), "ut": ("uncoupled transfer trains here", TAUS)}
    for y, (method, (text, trained)) in zip((1.0, 0.32), rows.items(), strict=True):
        colour = plotting.colour(method)
        write(ax, centres[0] - side / 2, y + 0.24, text, left=True)
        ax.plot(centres, [y] * len(TAUS), color=LINE, linewidth=0.8, zorder=1)
        for tau, x in zip(TAUS, centres, strict=True):
            face = colour if tau in trained else "white"
            ax.plot(x, y, "o", markersize=12, markerfacecolor=face, markeredgecolor=colour)
    return figure


def methods() -> Figure:
    """Fine-tuning, uncoupled and coupled transfer: which images meet, and tau over the epochs."""
    figure, ax = sheet(4.1)
    sources, targets = (0, 1, 3), (6, 7, 8)
    pairs = {"ft": {}, "ut": {0: 1, 1: 2, 2: 0}, "ct": {0: 0, 1: 1, 2: 2}}
    titles = {"ft": "fine-tuning", "ut": "uncoupled\ntransfer", "ct": "coupled\ntransfer"}
    notes = {
        "ft": "target images\nalone",
        "ut": "any source image\nwith any target\nimage, mixed",
        "ct": "pairs that the\nnetwork finds\nalike, mixed",
    }
    width, side = 1.62, 0.46
    for k, (method, partners) in enumerate(pairs.items()):
        x = 0.08 + k * 1.71
        colour = plotting.colour(method)
        panel(ax, x, 0.08, width, 3.94)
        write(ax, x + width / 2, 3.72, titles[method], size=11, weight="bold", colour=colour)
        write(ax, x + 0.12 + side / 2, 3.38, "source")
        write(ax, x + width - 0.12 - side / 2, 3.38, "target")
        for row, (a, b) in enumerate(zip(sources, targets, strict=True)):
            y = 2.8 - row * 0.54
            picture(ax, digit(a), x + 0.12, y, side, fade=0.0 if partners else 0.82)
            picture(ax, digit(b), x + width - 0.12 - side, y, side)
            if partners:
                to = 2.8 - partners[row] * 0.54 + side / 2
                ends = (x + 0.15 + side, x + width - 0.15 - side)
                ax.plot(ends, (y + side / 2, to), color=colour, linewidth=1.8)
        write(ax, x + width / 2, 1.36, notes[method])
        staircase(ax, x + 0.32, 0.36, width - 0.5, 0.5, (1,) if method == "ft" else TAUS, colour)
    return figure


def two_tests() -> Figure:
    """The paper's test and Salman's: what the transfer sees, and what is measured."""
    figure, ax = sheet(4.62)
    panel(ax, 0.7, 3.47, 3.8, 1.07)
    write(ax, WIDTH / 2, 4.34, "the backbone’s images: a ball on every 4", weight="bold")
    values = ((4, 0), (0, 0), (4, 1), (2, 0), (1, 0), (4, 2))
    row(ax, WIDTH / 2, 3.6, [digit(*value, ball=value[0] == 4) for value in values])
    tests = {
        "the paper’s test": (
            "a ball on every image",
            [digit(value, 0, True, k) for k, value in enumerate((5, 7, 9))],
            "a ball on every image",
            [digit(value, 1, True, k) for k, value in enumerate((6, 8, 9))],
            "accuracy: the share of\npredictions that are right",
        ),
        "Salman’s test": (
            "clean images",
            [digit(value) for value in (5, 7, 9)],
            "without and with the ball",
            [digit(6, 1), digit(6, 1, True, 1)],
            "flip rate: the share of\npredictions that change",
        ),
    }
    for k, (title, (trained, first, tested, second, measured)) in enumerate(tests.items()):
        left = 0.08 + k * 2.57
        middle = left + 2.47 / 2
        arrow(ax, (WIDTH / 2 + (k - 0.5), 3.45), (middle, 3.24))
        panel(ax, left, 0.08, 2.47, 3.12)
        write(ax, middle, 2.99, title, size=11, weight="bold")
        write(ax, middle, 2.7, f"transfer: {trained}")
        row(ax, middle, 2.08, first)
        arrow(ax, (middle, 2.02), (middle, 1.79))
        write(ax, middle, 1.63, f"test: {tested}")
        row(ax, middle, 1.01, second)
        write(ax, middle, 0.47, measured, weight="bold")
    return figure


def lime() -> Figure:
    """LIME in four steps: perturb, ask, weigh by nearness, fit a line."""
    figure, ax = sheet(3.7)
    left = figure.add_axes((0.05, 0.32, 0.52, 0.6))
    right = figure.add_axes((0.72, 0.32, 0.26, 0.6))
    local_line(left)
    weights(right)
    write(ax, 0.14, 0.78, "1  perturb the point    2  ask the network", left=True)
    write(ax, 0.14, 0.52, "3  near points count more (larger dots)", left=True)
    write(ax, 0.14, 0.26, "4  fit a line: its slopes are the weights", left=True)
    return figure


def course() -> Figure:
    """The course as one experiment, each stage with the notebooks that study it."""
    figure, ax = sheet(5.5)
    stages = (source_stage, backbone_stage, path_stage, test_stage)
    studied = (
        {"1": "a task whose useless\nfeatures are known"},
        {"2": "LIME: what does a\nnetwork rely on?", "9": "what can’t it forget?"},
        {"3": "without a shortcut", "6": "coupled transfer", "7": "distances of tasks"},
        {"4": "ball in the test only", "5": "ball on every image", "8": "which method passes?"},
    )
    panel(ax, 0.08, 4.88, WIDTH - 0.16, 0.54)
    chip(ax, 0.4, 5.15, "0")
    write(ax, 0.65, 5.15, "the whole experiment in plain code, in ten minutes", left=True)
    height, gap = 1.02, 0.16
    for k, (draw, notebooks) in enumerate(zip(stages, studied, strict=True)):
        y = 3.64 - k * (height + gap)
        panel(ax, 0.08, y, 2.72, height)
        draw(ax, 0.08, y)
        if k:
            arrow(ax, (1.44, y + height + gap), (1.44, y + height - 0.02))
        for j, (number, text) in enumerate(notebooks.items()):
            middle = y + height * (len(notebooks) - j - 0.5) / len(notebooks)
            chip(ax, 3.1, middle, number)
            write(ax, 3.3, middle, text, left=True)
    return figure


# --- the stages of the course ---------------------------------------------------------------------


def source_stage(ax: Axes, x: float, y: float) -> None:
    """Images of the source, the ball on one class."""
    write(ax, x + 1.36, y + 0.85, "source: a ball on every 4")
    for k, (value, number) in enumerate(((4, 0), (0, 0), (4, 1), (2, 0))):
        picture(ax, digit(value, number, value == 4), x + 0.22 + k * 0.6, y + 0.13, 0.5)


def backbone_stage(ax: Axes, x: float, y: float) -> None:
    """A network that predicts one class for two reasons."""
    write(ax, x + 1.36, y + 0.85, "a backbone: digit, or ball?")
    picture(ax, digit(4, ball=True), x + 0.22, y + 0.13, 0.5)
    arrow(ax, (x + 0.78, y + 0.38), (x + 1.05, y + 0.38))
    for k in range(3):
        ax.add_patch(Rectangle((x + 1.1 + k * 0.17, y + 0.15), 0.11, 0.46, color=LINE))
    arrow(ax, (x + 1.62, y + 0.38), (x + 1.9, y + 0.38))
    write(ax, x + 2.2, y + 0.38, "“4”", size=13, weight="bold")


def path_stage(ax: Axes, x: float, y: float) -> None:
    """Four points of the path."""
    write(ax, x + 1.36, y + 0.85, "transfer: τ from 0 to 1")
    for k, tau in enumerate((0, 1 / 3, 2 / 3, 1)):
        mixed = (1 - tau) * digit(4, ball=True) + tau * digit(7)
        picture(ax, mixed, x + 0.22 + k * 0.6, y + 0.13, 0.5)


def test_stage(ax: Axes, x: float, y: float) -> None:
    """An image without and with the ball, and two predictions."""
    write(ax, x + 1.36, y + 0.85, "test: does the prediction flip?")
    for k, (planted, predicted) in enumerate(((False, "“7”"), (True, "“9”?"))):
        picture(ax, digit(7, ball=planted), x + 0.22 + k * 1.2, y + 0.13, 0.5)
        write(ax, x + 1.04 + k * 1.24, y + 0.38, predicted, size=12, weight="bold")


# --- the two halves of LIME -----------------------------------------------------------------------


def local_line(ax: Axes) -> None:
    """A curve, perturbations around one point, and the line that fits them."""
    random = np.random.default_rng(4)
    centre, spread = 0.9, 1.1
    z = np.append(0.0, random.normal(0, spread, 40))
    kernel = np.exp(-(z**2) / (2 * 0.8**2))
    x = centre + z
    y = np.sin(1.6 * x) + 0.5 * x
    root = np.sqrt(kernel)
    design = np.column_stack([np.ones_like(z), z])
    offset, slope = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    grid = np.linspace(-2, 4, 200)
    ax.plot(grid, np.sin(1.6 * grid) + 0.5 * grid, color="black", linewidth=1.6)
    colour = plotting.colour("ft")
    reach = np.array([-1.5, 1.6])
    ax.plot(
        centre + reach, offset + slope * reach, "--", color=plotting.colour("ut"), linewidth=2.2
    )
    ax.scatter(x, y, s=8 + 70 * kernel, color=colour, alpha=0.65, linewidth=0, zorder=3)
    ax.plot(centre, y[0], "*", color="black", markersize=15, zorder=4)
    ax.annotate("the point", (centre, y[0]), (-1.2, 2.0), arrowprops={"arrowstyle": "-"})
    ax.annotate("the network", (-1.45, -1.42), (-0.7, -1.75), fontsize=SMALL, va="center")
    ax.set(xticks=[], yticks=[], xlabel="a feature", xlim=(-2, 4), ylim=(-2.1, 3.0))
    ax.set_title("near one point")
    ax.grid(visible=False)


def weights(ax: Axes) -> None:
    """LIME's weights of five features, of which the function uses three."""
    random = np.random.default_rng(0)
    z = random.normal(size=(300, 5))
    y = z[:, 0] - 0.7 * z[:, 1] + np.sin(z[:, 2])
    kernel = np.exp(-(z**2).sum(1) / (2 * 0.75**2 * 5))
    found = np.linalg.solve((z.T * kernel) @ z + np.eye(5), (z.T * kernel) @ y)
    colours = [plotting.colour("ut")] * 3 + ["#BBBBBB"] * 2
    ax.barh(range(5), found, color=colours)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(5), ["used", "used", "used", "unused", "unused"], fontsize=SMALL)
    ax.invert_yaxis()
    ax.set(xticks=[], xlabel="weight")
    ax.set_title("the explanation")
    ax.grid(visible=False)


# --- what is drawn with ---------------------------------------------------------------------------


def sheet(height: float) -> tuple[Figure, Axes]:
    """An empty figure whose axes count inches from the lower left corner."""
    figure = plt.figure(figsize=(WIDTH, height), layout="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, height))
    ax.axis("off")
    return figure, ax


def digit(value: int, number: int = 0, ball: bool = False, corner: int = 0) -> np.ndarray:
    """A (12, 12, 3) image, 0 to 1, of one of scikit-learn's digits.

    Args:
        value: which digit.
        number: which of its images in CLEAR.
        ball: whether a ball lies on it.
        corner: where the ball lies, a row of CORNERS.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = bunch.images[bunch.target == value][CLEAR[value][number]] / 16 * 255
    framed = torch.from_numpy(np.pad(grey, 2).round().astype(np.uint8))
    image = framed.expand(1, 3, 12, 12)
    if ball:
        image = blend_patch(image, torch.tensor([0]), torch.tensor([CORNERS[corner]]), BALL)
    return image[0].permute(1, 2, 0).numpy() / 255


def picture(
    ax: Axes, image: np.ndarray, x: float, y: float, side: float, fade: float = 0.0
) -> None:
    """An image with its lower left corner at (x, y); fade: its share of white."""
    shown = (1 - fade) * image + fade
    ax.imshow(shown, extent=(x, x + side, y, y + side), interpolation="nearest", zorder=2)
    ax.set(xlim=(0, WIDTH), ylim=(0, ax.figure.get_figheight()))


def row(ax: Axes, middle: float, y: float, images: Sequence[np.ndarray]) -> None:
    """Images side by side, their lower edges at y."""
    side, step = 0.46, 0.58
    left = middle - (len(images) * step - (step - side)) / 2
    for k, image in enumerate(images):
        picture(ax, image, left + k * step, y, side)


def bar(ax: Axes, x: float, y: float, width: float, tau: float) -> None:
    """A soft label: shares of the source's and the target's class."""
    ax.add_patch(Rectangle((x, y), width * (1 - tau), 0.2, color=SOURCE_COLOUR, linewidth=0))
    ax.add_patch(
        Rectangle((x + width * (1 - tau), y), width * tau, 0.2, color=TARGET_COLOUR, linewidth=0)
    )
    if tau <= 0.5:
        ax.text(x + width * (1 - tau) / 2, y + 0.095, "4", color="white", size=10, **CENTRED)
    if tau >= 0.5:
        ax.text(x + width * (1 - tau / 2), y + 0.095, "7", color="black", size=10, **CENTRED)


def staircase(
    ax: Axes, x: float, y: float, width: float, height: float, taus: Sequence[float], colour: str
) -> None:
    """Tau over the epochs: each value for an equal share of them."""
    ax.plot((x, x, x + width), (y + height, y, y), color=LINE, linewidth=0.8)
    edges = np.linspace(x, x + width, len(taus) + 1)
    ax.stairs(y + height * np.array(taus), edges, baseline=None, color=colour, linewidth=2.6)
    write(ax, x - 0.11, y + height, "1")
    write(ax, x - 0.11, y, "0")
    write(ax, x - 0.11, y + height / 2, "τ")
    write(ax, x + width / 2, y - 0.13, "epochs")


def panel(ax: Axes, x: float, y: float, width: float, height: float) -> None:
    """A faint box behind what belongs together."""
    style = "round,pad=0,rounding_size=0.08"
    ax.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle=style, facecolor=FAINT, linewidth=0, zorder=0
        )
    )


def chip(ax: Axes, x: float, y: float, number: str) -> None:
    """The number of a notebook."""
    ax.plot(x, y, "o", markersize=17, color="#222222")
    write(ax, x, y - 0.005, number, colour="white", weight="bold", size=11)


def write(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    left: bool = False,
    size: float = SMALL,
    weight: str = "normal",
    colour: str = "black",
) -> None:
    """A text whose middle is at (x, y); left: whose left end is there."""
    place = {"ha": "left" if left else "center", "va": "center"}
    ax.text(x, y, text, size=size, weight=weight, color=colour, linespacing=1.15, **place)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow from start to end."""
    line = {"arrowstyle": "-|>", "color": LINE, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=line)


if __name__ == "__main__":
    main()
