"""Windows: small adversarial patches, one per output, that lie on a part of each mini-batch.

A network that relies on some small local pattern can be moved by a patch that is grown for it. Its
training images carry such patches at random places and keep their labels, so it must learn that a
patch says nothing. No knowledge of a shortcut is needed but that it is small and local.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rtl_utils.data import as_float
from rtl_utils.randomness import generator
from rtl_utils.training._programs import Program
from rtl_utils.training.records import Replica

VERSION = 1  # raised when a window changes, so that stored runs are not taken for new ones
_SHARE = 0.25  # of the images of a mini-batch that carry a window
_ASCENTS = 2  # steps of the windows before each step of the network
_RATE = 0.1  # of an ascent, as a share of the range of a pixel


class _Places(NamedTuple):
    """Which window lies where on each image of an epoch: (r, n) each."""

    output: Tensor
    down: Tensor
    across: Tensor

    def at(self, rows: slice) -> "_Places":
        return _Places(*(values[:, rows] for values in self))


class Windows:
    """The windows of a group of replicas, and how they grow.

    Args:
        group: replicas of one shape, with windows of one size.
        program: their networks.
        example: (1, c, h, w) inputs, for their shape, type and device.

    pixels: (r, k, c, s, s), one window of side s per replica and output, as network inputs.
    """

    def __init__(self, group: Sequence[Replica], program: Program, example: Tensor) -> None:
        self.group = group
        self.program = program
        self.room = example.shape[-1]
        self.side = max(1, round(group[0].window * self.room))
        black, white = as_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        self.lowest, self.highest = black, white
        size = (group[0].net.head.out_features, example.shape[1], self.side, self.side)
        drawn = [generator(replica.seed, "window").random(size) for replica in group]
        pixels = torch.from_numpy(np.stack(drawn)).to(example.dtype).to(example.device)
        self.pixels = pixels * (white - black) + black

    def draw(self, n: int, epoch: int) -> list[_Places]:
        """Places of every ascent of an epoch, and then those of the images that carry a window."""
        drawn = []
        for replica in self.group:
            rng = generator(replica.seed, "windows", epoch)
            highest = [self.pixels.shape[1], *[self.room - self.side + 1] * 2]
            places = [rng.integers(0, most, (_ASCENTS + 1, n)) for most in highest]
            places[0][-1][rng.random(n) >= _SHARE] = -1  # carries none
            drawn.append(places)
        there = torch.from_numpy(np.array(drawn)).to(self.pixels.device)  # (r, 3, ascents + 1, n)
        return [_Places(*there[:, :, k].unbind(1)) for k in range(_ASCENTS + 1)]

    def paste(self, x: Tensor, places: Sequence[_Places], rows: slice) -> Tensor:
        """A mini-batch of which some images carry windows, after the windows have grown.

        Args:
            x: (r, b, c, h, w) inputs.
            places: of `draw`.
            rows: which images of the epoch these are.
        """
        *ascents, last = (part.at(rows) for part in places)
        self.program.train(False)
        for part in ascents:
            self.pixels = self._grown(x, part)
        self.program.train(True)
        carries = (last.output >= 0)[..., None, None, None]
        shown = last._replace(output=last.output.clamp(min=0))
        return torch.where(carries, _planted(x, self.pixels, shown), x)

    def _grown(self, x: Tensor, places: _Places) -> Tensor:
        """The windows after a step up the log-probability of the output that each stands for."""
        pixels = self.pixels.detach().requires_grad_()
        outputs = self.program(_planted(x, pixels, places))
        likely = outputs.log_softmax(-1).gather(2, places.output[..., None]).mean((1, 2))
        (gradient,) = torch.autograd.grad(likely.sum(), pixels)
        step = _RATE * (self.highest - self.lowest)
        grown: Tensor = self.pixels + step * gradient.sign()
        return grown.clamp(self.lowest, self.highest)


def _planted(x: Tensor, pixels: Tensor, places: _Places) -> Tensor:
    """(r, b, c, h, w) inputs with one window on each image."""
    side = torch.arange(pixels.shape[-1], device=x.device)
    replica = torch.arange(len(x), device=x.device)[:, None, None, None]
    image = torch.arange(x.shape[1], device=x.device)[:, None, None]
    down = places.down[..., None, None] + side[:, None]
    across = places.across[..., None, None] + side
    windows = pixels[replica[..., 0, 0], places.output].permute(0, 1, 3, 4, 2)
    planted = x.clone()
    planted[replica, image, :, down, across] = windows
    return planted
