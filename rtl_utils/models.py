"""The two networks of the paper. Each is a body, whose output are the features, and a linear head."""

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rtl_utils.tasks import Task, as_float

MLP_WIDTHS = {"plain": (100, 150, 200, 150, 75), "batchnorm": (100, 200, 200, 100, 50)}  # both nets have 92,001 parameters
CONVNET_WIDTHS = {"small": (16, 32, 64, 128), "paper": None}  # channels of the four stages; "paper" is the All-CNN layout


class Net(nn.Module):
    """A body in stages, with dropout after some of them, and a linear head.

    Dropout masks are arguments, not draws: the caller decides them, so that a replica's masks do not depend on its neighbours.
    """

    def __init__(self, stages: Sequence[nn.Module], dropout: Sequence[float], head: nn.Linear):
        super().__init__()
        self.body = nn.ModuleList(stages)
        self.head = head
        self.dropout = tuple(dropout)  # share of values set to 0 after each stage
        self.still_statistics = False  # True: BatchNorm uses and keeps its running statistics, in training too

    def train(self, mode: bool = True) -> "Net":
        super().train(mode)
        if self.still_statistics:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def features(self, x: Tensor, masks: Iterable[Tensor] = ()) -> Tensor:
        """(n, ...) inputs to (n, d) features; masks: one for each stage that has dropout, or none to leave dropout out."""
        masks = iter(masks)
        for stage, rate in zip(self.body, self.dropout, strict=True):
            x = stage(x)
            if rate:
                mask = next(masks, None)
                x = x if mask is None else x * mask
        return x

    def forward(self, x: Tensor, masks: Iterable[Tensor] = ()) -> Tensor:
        return self.head(self.features(x, masks))

    @torch.no_grad()
    def mask_shapes(self, x: Tensor) -> list[tuple[float, torch.Size]]:
        """(rate, shape for one example) of each dropout, for inputs like x."""
        was_training, shapes = self.training, []
        self.eval()
        for stage, rate in zip(self.body, self.dropout, strict=True):
            x = stage(x)
            if rate:
                shapes.append((rate, x.shape[1:]))
        self.train(was_training)
        return shapes


def build(task: Task, width: str | Sequence[int], seed: int) -> Net:
    """A fresh network for the task: an MLP for features, a ten-layer CNN for images.

    width: "plain" or "batchnorm" for features; "small", "paper" or four stage widths for images.
    The weights are PyTorch's default initialisation, drawn by the seed; the global random state is left alone.
    Raises ValueError for a width that the kind of task does not have.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp(width, task.x_train.shape[1]) if task.x_train.ndim == 2 else convnet(width, task.x_train.shape[1], task.outputs)


def mlp(width: str = "plain", inputs: int = 50) -> Net:
    """Six-layer perceptron with 92,001 parameters on 50 inputs (paper, section 5.1), ReLU, with or without BatchNorm."""
    if width not in MLP_WIDTHS:
        raise ValueError(f"width of an MLP must be one of {', '.join(MLP_WIDTHS)}; got {width!r}")
    layers: list[nn.Module] = []
    for out in MLP_WIDTHS[width]:
        layers += [nn.Linear(inputs, out), *([nn.BatchNorm1d(out)] if width == "batchnorm" else []), nn.ReLU()]
        inputs = out
    return Net([nn.Sequential(*layers)], (0.0,), nn.Linear(inputs, 1))


def convnet(width: str | Sequence[int] = "small", channels: int = 3, classes: int = 5) -> Net:
    """Ten-layer CNN: nine 3 x 3 convolutions, each with BatchNorm and ReLU, global average pooling, one linear layer.

    "small", or four stage widths: 2, 2, 2 and 3 convolutions, max-pooling between the stages, dropout 0.1 after each pool.
    "paper": All-CNN (Springenberg 2015), 96 96 96/2 192 192 192/2 192 192 192, dropout 0.2 on the input and 0.5 after each stride 2.
    """
    if width == "paper":
        plan = [[], [(96, 1), (96, 1), (96, 2)], [(192, 1), (192, 1), (192, 2)], [(192, 1), (192, 1), (192, 1)]]
        dropout, pool = (0.2, 0.5, 0.5, 0.0), False
    else:
        a, b, c, d = _stage_widths(width)
        plan = [[(a, 1)] * 2, [(b, 1)] * 2, [(c, 1)] * 2, [(d, 1)] * 3]
        dropout, pool = (0.1, 0.1, 0.1, 0.0), True
    stages = []
    for layers in plan:
        stage: list[nn.Module] = []
        for out, stride in layers:
            # no bias: the BatchNorm that follows has one
            stage += [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        stages.append(nn.Sequential(*stage, *([nn.MaxPool2d(2)] if pool and layers is not plan[-1] else [])))
    stages[-1].extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return Net(stages, dropout, nn.Linear(channels, classes))


def _stage_widths(width: str | Sequence[int]) -> Sequence[int]:
    widths = CONVNET_WIDTHS.get(width) if isinstance(width, str) else tuple(width)
    if widths is None or len(widths) != 4 or not all(type(w) is int and w > 0 for w in widths):
        raise ValueError(f"width of a CNN must be one of {', '.join(CONVNET_WIDTHS)} or four positive numbers of channels; got {width!r}")
    return widths


def folded(net: Net) -> Net:
    """A copy for evaluation whose BatchNorms are folded into the convolutions before them: the same function in fewer passes."""
    copied = copy.deepcopy(net).eval()
    for stage in copied.body:
        layers = list(stage.children())
        for k, (layer, norm) in enumerate(pairwise(layers)):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                stage[k], stage[k + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return copied


def parameter_count(net: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@torch.no_grad()
def predict(net: Net, x: Tensor, size: int = 250) -> Tensor:
    """(n, k) outputs in evaluation mode for raw task inputs (n, ...), `size` examples at a time, on the network's device."""
    net.eval()
    return torch.cat([net(_inputs(net, part)) for part in x.split(size)])


@torch.no_grad()
def predict_features(net: Net, x: Tensor, size: int = 250) -> Tensor:
    """(n, d) features, the body's output, in evaluation mode, as `predict`."""
    net = folded(net)
    return torch.cat([net.features(_inputs(net, part)) for part in x.split(size)])


def _inputs(net: Net, x: Tensor) -> Tensor:
    weight = net.head.weight
    x = as_float(x.to(weight.device), weight.dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
