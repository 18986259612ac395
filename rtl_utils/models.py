"""Networks: the paper's two kinds, and variants. Each is a body and a linear head.

The body gives the features, of which the head makes the outputs.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rtl_utils.data import Task, as_float

Width = str | tuple[int, ...]
_BUILDING = Lock()  # torch's initial weights come from its global random state


@dataclass(frozen=True)
class Network:
    """A network that `build` knows by name.

    Args:
        channels: widths of the MLP's hidden layers, or channels of the CNN's four stages; none for
            the All-CNN layout.
        images: whether it takes images; else it takes tables.
        batchnorm: whether each layer but the last is followed by BatchNorm. Without it a CNN starts
            from He's weights, since PyTorch's default ones let the signal fade over ten layers.
        version: raised when what it computes changes, so that stored runs are not mistaken for new
            ones.
    """

    channels: tuple[int, ...]
    images: bool
    batchnorm: bool = True
    version: int = 1


NETWORKS = {
    # both perceptrons have 92,001 parameters; version 1 was trained in stacks
    "plain": Network((100, 150, 200, 150, 75), images=False, batchnorm=False, version=2),
    "batchnorm": Network((100, 200, 200, 100, 50), images=False, version=2),
    "small": Network((16, 32, 64, 128), images=True),
    "small-plain": Network((16, 32, 64, 128), images=True, batchnorm=False),
    "wide": Network((32, 64, 128, 256), images=True),
    "wide-plain": Network((32, 64, 128, 256), images=True, batchnorm=False),
    "paper": Network((), images=True),
}


class Net(nn.Module):
    """A body in stages, with dropout after some of them, and a linear head.

    Dropout masks are arguments, not draws: the caller decides them, so that a replica's masks do
    not depend on its neighbours.

    Args:
        stages: the body, in order.
        dropout: share of values set to 0 after each stage.
        head: the last layer.
    """

    def __init__(
        self, stages: Sequence[nn.Module], dropout: Sequence[float], head: nn.Linear
    ) -> None:
        super().__init__()
        self.body = nn.ModuleList(stages)
        self.head = head
        self.dropout = tuple(dropout)
        self.frozen_statistics = False  # True: BatchNorm keeps its running statistics in training

    def train(self, mode: bool = True) -> "Net":
        """Training or evaluation mode; frozen BatchNorm statistics stay in evaluation mode."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.body.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def features(self, x: Tensor, masks: Iterable[Tensor] = ()) -> Tensor:
        """(n, ...) inputs to (n, d) features.

        Args:
            x: network inputs.
            masks: one for each stage that has dropout, or none to leave dropout out.
        """
        remaining = iter(masks)
        for stage, rate in self._stages():
            x = stage(x)
            mask = next(remaining, None) if rate else None
            if mask is not None:
                x = x * mask
        return x

    def forward(self, x: Tensor, masks: Iterable[Tensor] = ()) -> Tensor:
        """(n, ...) inputs to (n, k) outputs; masks as in `features`."""
        outputs: Tensor = self.head(self.features(x, masks))
        return outputs

    @torch.no_grad()
    def mask_shapes(self, x: Tensor) -> list[tuple[float, torch.Size]]:
        """(rate, shape for one example) of each dropout, for inputs like x."""
        was_training = self.training
        self.eval()
        shapes = []
        for stage, rate in self._stages():
            x = stage(x)
            if rate:
                shapes.append((rate, x.shape[1:]))
        self.train(was_training)
        return shapes

    def _stages(self) -> Iterator[tuple[nn.Module, float]]:
        return zip(self.body, self.dropout, strict=True)


def build(task: Task, width: str | Sequence[int], seed: int) -> Net:
    """A fresh network for the task: an MLP for features, a ten-layer CNN for images.

    Args:
        task: says the inputs and outputs.
        width: a name of NETWORKS for this kind of task, or four stage widths for images.
        seed: of the weights, PyTorch's default ones, or He's in a CNN without BatchNorm; the
            global random state is left alone.

    Raises:
        ValueError: for a width that the kind of task does not have.
    """
    inputs = int(task.x_train.shape[1])
    with _BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if task.x_train.ndim == 2:
            return mlp(width, inputs, task.outputs)
        return convnet(width, inputs, task.outputs)


def mlp(width: str | Sequence[int] = "plain", inputs: int = 50, outputs: int = 1) -> Net:
    """Six-layer perceptron with ReLU, with or without BatchNorm: 92,001 parameters on 50 inputs.

    Raises:
        ValueError: for another width than "plain" or "batchnorm".

    Source: the paper, section 5.1.
    """
    known = [name for name, network in NETWORKS.items() if not network.images]
    if not isinstance(width, str) or width not in known:
        raise ValueError(f"width of an MLP must be one of {', '.join(known)}; got {width!r}")
    layers: list[nn.Module] = []
    for out in NETWORKS[width].channels:
        layers.append(nn.Linear(inputs, out))
        if NETWORKS[width].batchnorm:
            layers.append(nn.BatchNorm1d(out))
        layers.append(nn.ReLU())
        inputs = out
    return Net([nn.Sequential(*layers)], (0.0,), nn.Linear(inputs, outputs))


def convnet(width: str | Sequence[int] = "small", channels: int = 3, classes: int = 5) -> Net:
    """Ten-layer CNN: nine 3 x 3 convolutions, each with BatchNorm and ReLU, and one linear layer.

    Args:
        width: "small", "wide", or the channels of four stages: 2, 2, 2 and 3 convolutions,
            max-pooling between the stages, dropout 0.1 after each pool. "small-plain" and
            "wide-plain" are the same without BatchNorm. "paper": All-CNN, 96 96 96/2 192 192
            192/2 192 192 192, dropout 0.2 on the input and 0.5 after each stride of 2.
        channels: of the input.
        classes: outputs.

    Raises:
        ValueError: for another width.

    Source: the paper, section 5.2; Springenberg (2015) for "paper".
    """
    if width == "paper":
        plan = [
            [],
            [(96, 1), (96, 1), (96, 2)],
            [(192, 1), (192, 1), (192, 2)],
            [(192, 1), (192, 1), (192, 1)],
        ]
        dropout = (0.2, 0.5, 0.5, 0.0)
        pooled = 0
    else:
        a, b, c, d = stage_channels(width)
        plan = [[(a, 1)] * 2, [(b, 1)] * 2, [(c, 1)] * 2, [(d, 1)] * 3]
        dropout = (0.1, 0.1, 0.1, 0.0)
        pooled = 3
    batchnorm = NETWORKS[width].batchnorm if isinstance(width, str) else True
    stages = []
    for k, layers in enumerate(plan):
        stage: list[nn.Module] = []
        for out, stride in layers:
            stage += _convolution(channels, out, stride, batchnorm)
            channels = out
        if k < pooled:
            stage.append(nn.MaxPool2d(2))
        stages.append(nn.Sequential(*stage))
    stages[-1].extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return Net(stages, dropout, nn.Linear(channels, classes))


def stage_channels(width: str | Sequence[int]) -> tuple[int, ...]:
    """Channels of the four stages. Raises ValueError for another width than `convnet` takes."""
    known = [name for name, network in NETWORKS.items() if network.images]
    if isinstance(width, str):
        channels = NETWORKS[width].channels if width in known else ()
    else:
        channels = tuple(width)
    if len(channels) != 4 or not all(type(w) is int and w > 0 for w in channels):
        raise ValueError(
            f"width of a CNN must be one of {', '.join(known)} or four positive numbers of "
            f"channels; got {width!r}"
        )
    return channels


def _convolution(channels: int, out: int, stride: int, batchnorm: bool) -> list[nn.Module]:
    if not batchnorm:
        plain = nn.Conv2d(channels, out, 3, stride, padding=1)
        nn.init.kaiming_normal_(plain.weight, nonlinearity="relu")
        nn.init.constant_(plain.get_parameter("bias"), 0)
        return [plain, nn.ReLU(inplace=True)]
    # no bias: the BatchNorm that follows has one
    convolution = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def folded(net: Net) -> Net:
    """A copy for evaluation whose BatchNorms are folded into the convolutions before them.

    It is the same function in fewer passes over the data.
    """
    copied = copy.deepcopy(net).eval()
    for stage in copied.body:
        if not isinstance(stage, nn.Sequential):
            continue
        layers = list(stage.children())
        for k, (layer, norm) in enumerate(pairwise(layers)):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                stage[k] = fuse_conv_bn_eval(layer, norm)
                stage[k + 1] = nn.Identity()
    return copied


def parameter_count(net: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@torch.no_grad()
def predict(net: Net, x: Tensor, size: int = 250) -> Tensor:
    """(n, k) outputs in evaluation mode, on the network's device.

    Args:
        net: put into evaluation mode.
        x: (n, ...) raw task inputs.
        size: examples at a time.
    """
    net.eval()
    return torch.cat([net(network_inputs(net, part)) for part in x.split(size)])


@torch.no_grad()
def predict_features(net: Net, x: Tensor, size: int = 250) -> Tensor:
    """(n, d) features, the body's output in evaluation mode; arguments as in `predict`."""
    net = folded(net)
    return torch.cat([net.features(network_inputs(net, part)) for part in x.split(size)])


@torch.no_grad()
def estimate_statistics(net: Net, x: Tensor, size: int = 250) -> None:
    """Estimate BatchNorm's running statistics anew, as averages over these inputs.

    Averaged weights need it: the average of two networks' statistics is not the statistics of
    their average.

    Args:
        net: changed in place, and left in evaluation mode.
        x: (n, ...) raw task inputs.
        size: examples at a time.

    Source: Izmailov et al. (2018), section 3.2.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    usual = [norm.momentum for norm in norms]
    parts = list(x.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:  # one example alone has no variance
        parts[-2:] = [torch.cat(parts[-2:])]
    for norm in norms:
        norm.reset_running_stats()
    net.train()
    for k, part in enumerate(parts if norms else ()):
        for norm in norms:
            # the mean of k + 1 mini-batches; a momentum of None is the same, but waits for a GPU
            norm.momentum = 1 / (k + 1)
        net(network_inputs(net, part))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    net.eval()


@torch.no_grad()
def rescale(net: Net) -> None:
    """Give each filter that a BatchNorm follows the length that a fresh one has on average.

    What the network computes stays as it was, since BatchNorm divides the scale out again. But a
    step of SGD turns a filter by an angle that falls with the square of its length, and training
    makes filters longer: from fresh lengths a pre-trained network moves as readily as a fresh one.

    Args:
        net: changed in place, with BatchNorm's running statistics.

    Source: Li & Arora (2020), section 2, for the size of a step.
    """
    layers = [layer for layer in net.modules() if not isinstance(layer, Net | nn.Sequential)]
    for layer, following in pairwise(layers):
        if isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(following, _BatchNorm):
            lengths = layer.weight.flatten(1).norm(dim=1)
            # PyTorch draws weights of variance 1 / 3d for d inputs; a filter of 0 stays as it is
            scale = torch.where(lengths > 0, 3**-0.5 / lengths, 1)
            layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
            if layer.bias is not None:
                layer.bias.mul_(scale)
            if following.running_mean is not None and following.running_var is not None:
                following.running_mean.mul_(scale)
                following.running_var.mul_(scale**2)


def network_inputs(net: Net, x: Tensor) -> Tensor:
    """Raw task inputs as the network takes them: on its device, in its type and memory format."""
    weight = net.head.weight
    x = as_float(x.to(weight.device), weight.dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
