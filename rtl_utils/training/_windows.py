"""Windows: adversarial patches, one per output, on copies of a part of each mini-batch.

A network that relies on some local pattern can be moved by a patch that is grown for it. A copy of
an image that carries such a patch at a random place keeps its label, so the network must learn that
the patch says nothing; with `Replica.steady` it also pays for each change of its answer. Nothing
need be known of a shortcut, but a patch of the windows' shape must be able to do what it does.

    d_k <- clip(d_k + 0.1 range sign(grad of mean_i log q_k(x_i with d_k)))     twice, then
    w   <- a step down the mean over examples and copies of  -log q_y(.)

d_k: window of output k, x_i with d_k: example i with it at a random place, q: the network's
probabilities, in evaluation mode for the windows; range: of a pixel; w: weights, y: label.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtl_utils.data import as_float
from rtl_utils.randomness import generator
from rtl_utils.training._programs import Program
from rtl_utils.training.records import Replica, Window, window_sides

VERSION = 3  # raised when a window changes, so that stored runs are not taken for new ones
_SHARE = 0.5  # of the images of a mini-batch that have a copy
_ASCENTS = 2  # steps of the windows before each step of the network
_RATE = 0.1  # of an ascent, as a share of the range of a pixel


class _Places(NamedTuple):
    """Which window lies where on each image: (r, n) each."""

    output: Tensor
    down: Tensor
    across: Tensor


class Places(NamedTuple):
    """Where windows lie on a mini-batch.

    Args:
        size: which of the sizes they have.
        values: (r, 3, ascents + 1, n): what `_Places` holds for every ascent, and then for the
            copies.
    """

    size: int
    values: Tensor

    def parts(self) -> list[_Places]:
        """For every ascent, and then for the copies."""
        return [_Places(*part.unbind(1)) for part in self.values.unbind(2)]


class Windows:
    """The windows of a group of replicas, and how they grow.

    Where there are several sizes they take turns, one per mini-batch. In training BatchNorm's
    statistics are those of examples and copies together.

    Args:
        group: replicas of one shape, with windows of the same sizes.
        program: their networks.
        example: (1, c, h, w) inputs, for their shape, type and device.

    pixels: (r, k, c, h, w) for each size, one window per replica and output, as network inputs.

    Source: this course; patches by ascent as in Brown et al. (2017), trained against in a minimax
    loop as in Zeng et al. (2022).
    """

    def __init__(self, group: Sequence[Replica], program: Program, example: Tensor) -> None:
        self.group = group
        self.program = program
        self.side = example.shape[-1]
        black, white = as_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        self.lowest, self.highest = black, white
        self.pixels = [self._drawn(window, example) for window in group[0].windows]
        self.turn = 0

    def draw(self, n: int, epoch: int) -> list[Tensor]:
        """For each size, the values of `Places` for all images of an epoch."""
        drawn = []
        for replica in self.group:
            rng = generator(replica.seed, "windows", epoch)
            drawn.append([self._corners(pixels, n, rng) for pixels in self.pixels])
        # (r, sizes, 3, ascents + 1, n), which goes to the device at once
        there = torch.from_numpy(np.array(drawn)).to(self.pixels[0].device)
        return list(there.unbind(1))

    def places(self, drawn: Sequence[Tensor], rows: slice) -> Places:
        """Where the next windows lie on some images of the epoch.

        Args:
            drawn: by `draw`.
            rows: which images these are.
        """
        size = self.turn % len(self.pixels)
        self.turn += 1
        return Places(size, drawn[size][..., rows])

    def copies(self, x: Tensor, places: Places) -> Tensor:
        """(r, m, c, h, w) copies of the first m inputs with windows, after these have grown.

        Args:
            x: (r, b, c, h, w) inputs of a mini-batch.
            places: of windows on it.
        """
        *ascents, last = places.parts()
        pixels = self.pixels[places.size]
        self.program.train(False)
        for part in ascents:
            pixels = self._grown(x, pixels, part)
        self.program.train(True)
        self.pixels[places.size].copy_(pixels)
        count = max(1, round(_SHARE * x.shape[1]))
        return _planted(x[:, :count], pixels, _Places(*(values[:, :count] for values in last)))

    def _drawn(self, window: Window, example: Tensor) -> Tensor:
        """(r, k, c, h, w) windows of random pixels."""
        height, width = (max(1, round(share * self.side)) for share in window_sides(window))
        size = (self.group[0].net.head.out_features, example.shape[1], height, width)
        position = height if height == width else (height << 16) + width  # one per size
        drawn = [generator(r.seed, "window", position).random(size) for r in self.group]
        pixels = torch.from_numpy(np.stack(drawn)).to(example.dtype).to(example.device)
        scaled: Tensor = pixels * (self.highest - self.lowest) + self.lowest
        return scaled

    def _corners(self, pixels: Tensor, n: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """(ascents + 1, n) outputs whose windows are planted, and rows and columns of corners."""
        highest = [pixels.shape[1], *(self.side - side + 1 for side in pixels.shape[-2:])]
        return [rng.integers(0, most, (_ASCENTS + 1, n)) for most in highest]

    def _grown(self, x: Tensor, before: Tensor, places: _Places) -> Tensor:
        """The windows after a step up the log-probability of the output that each stands for."""
        pixels = before.detach().requires_grad_()
        with self.program.frozen_weights():
            outputs = self.program(_planted(x, pixels, places))
            likely = outputs.log_softmax(-1).gather(2, places.output[..., None]).mean((1, 2))
            (gradient,) = torch.autograd.grad(likely.sum(), pixels)
        step = _RATE * (self.highest - self.lowest)
        grown: Tensor = before + step * gradient.sign()
        return grown.clamp(self.lowest, self.highest)


def changed(output: Tensor, examples: int) -> Tensor:
    """(r,) mean KL(p || q) of the answers p to examples and the answers q to their copies.

    The answers to the examples are targets: no gradient goes through them.

    Args:
        output: (r, b + m, k) logits of b examples and of copies of the first m.
        examples: b.

    Source: Zheng et al. (2016).
    """
    copies = output[:, examples:].log_softmax(-1)
    before = output[:, : copies.shape[1]].detach().log_softmax(-1)
    return (before.exp() * (before - copies)).sum(-1).mean(1)


def _planted(x: Tensor, pixels: Tensor, places: _Places) -> Tensor:
    """(r, b, c, h, w) inputs with one window on each image."""
    height, width = (torch.arange(side, device=x.device) for side in pixels.shape[-2:])
    replica = torch.arange(len(x), device=x.device)[:, None, None, None]
    image = torch.arange(x.shape[1], device=x.device)[:, None, None]
    down = places.down[..., None, None] + height[:, None]
    across = places.across[..., None, None] + width
    windows = pixels[replica[..., 0, 0], places.output].permute(0, 1, 3, 4, 2)
    planted = x.clone()
    planted[replica, image, :, down, across] = windows
    return planted
