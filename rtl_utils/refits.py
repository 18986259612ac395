"""A path of tasks that is solved in closed form: each layer imitates itself, with least weights.

The task at tau is "give the outputs of the backbone's layer on inputs of the mixture of source and
target, with weights as small as possible". At tau = 0, without smoothing, each layer does what the
backbone's did on the source; at tau = 1 no weight is left on what the target's inputs never excite.
Fine-tuning alone cannot take such weights away, since their gradient is zero there.

In the terms of `paths` and `schedules`: the blend is "mixture", p_tau = (1 - tau) p_s + tau p_t, of
which the moments are known without a draw; the coupling does not matter, since this blend never
shows both ends of a pair at once; and the schedule is one step from tau = 0 to tau = 1.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from rtl_utils import devices
from rtl_utils.data import Task
from rtl_utils.models import Net, estimate_statistics, network_inputs
from rtl_utils.training import one_thread

VERSION = 1  # raised when a refit's weights change, so that stored runs are not taken for new ones
_AT_ONCE = 100  # images whose patches are held at once
_NOTHING = 1e-12  # of the largest variance: a direction with less is one that is never excited


@torch.no_grad()
def refit(
    net: Net,
    target: Task,
    source: Task | None = None,
    *,
    tau: float = 1.0,
    smoothing: float = 0.3,
) -> None:
    """Refit every layer of a network, one after the other, to what it gave at tau.

    W(tau) = argmin_V E |(V - W)(u - m)|^2 + eps |V|^2 = W C (C + eps I)^-1

    u are the patches (or features) that reach the layer from the layers refitted before it, with
    mean m and covariance C under (1 - tau) source + tau target; eps = smoothing x mean(diag C).
    What the layer gives on average stays as it was. Then BatchNorm's statistics are estimated anew
    on the target.

    Args:
        net: changed in place, and left in evaluation mode.
        target: the task at tau = 1; its training inputs are read, not its labels.
        source: the task at tau = 0; not read at tau = 1.
        tau: place on the path, 0 ... 1.
        smoothing: 0 or more; 0 only projects onto the directions that occur.

    Raises:
        ValueError: for a tau or a smoothing out of range, or a tau below 1 without a source.

    Source: this course; least squares layer by layer as in He et al. (2017), who prune.
    """
    if not 0 <= tau <= 1:
        raise ValueError(f"tau must lie between 0 (the source) and 1 (the target); got {tau!r}")
    if not smoothing >= 0:
        raise ValueError(f"smoothing must be 0 or more; got {smoothing!r}")
    if tau < 1 and source is None:
        raise ValueError(f"a tau below 1 needs the source; got tau = {tau!r} and source None")
    parts = [(tau, target), (1 - tau, source)]
    mixed = [(share, task) for share, task in parts if share and task is not None]
    shares = [share for share, _ in mixed]
    net.eval()
    with one_thread():  # the bits depend on the number of threads
        inputs = [network_inputs(net, task.x_train) for _, task in mixed]
        layers = list(_layers(net))
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                mean, covariance = _moments(layer, inputs, shares)
                _imitate(layer, following, mean, covariance, smoothing)
            inputs = [layer(x) for x in inputs]
        if not net.frozen_statistics:
            estimate_statistics(net, target.x_train)


def imitated(weight: Tensor, covariance: Tensor, smoothing: float) -> Tensor:
    """(out, d) weights W C (C + eps I)^-1 of least size that imitate those given.

    Args:
        weight: (out, d) W.
        covariance: (d, d) C of the inputs.
        smoothing: eps as a share of the mean variance, 0 or more.

    Source: ridge regression of the layer's outputs, Hoerl & Kennard (1970).
    """
    variance, directions = torch.linalg.eigh(covariance)
    eps = smoothing * covariance.diagonal().mean()
    excited = variance > _NOTHING * variance[-1].clamp(min=0)
    kept = torch.where(excited, variance / (variance + eps), 0)
    new: Tensor = weight @ (directions * kept) @ directions.T
    return new


def _layers(net: Net) -> Iterator[nn.Module]:
    """What an input passes, one after the other."""
    for stage in chain(net.body, [net.head]):
        yield from stage if isinstance(stage, nn.Sequential) else [stage]


def _moments(
    layer: nn.Conv2d | nn.Linear, inputs: Sequence[Tensor], shares: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """(d,) mean and (d, d) covariance of a layer's patches over a mixture of tasks, in float64.

    Args:
        layer: that takes the inputs.
        inputs: (n, ...) of each task.
        shares: of the tasks in the mixture; they add up to 1.
    """
    size = layer.weight[0].numel()
    where = devices.of_float64(layer.weight.device)
    first = torch.zeros(size, dtype=torch.float64, device=where)
    second = torch.zeros(size, size, dtype=torch.float64, device=where)
    for x, share in zip(inputs, shares, strict=True):
        for part in x.split(_AT_ONCE):
            patches = _patches(layer, part).to(where).double()
            weight = share * len(part) / len(x) / len(patches)
            first += weight * patches.sum(0)
            second.addmm_(patches.T, patches, alpha=weight)
    return first, second - torch.outer(first, first)


def _patches(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """(m, d) what each output of the layer sees of (n, ...) inputs."""
    if isinstance(layer, nn.Linear):
        return x
    padding = layer.padding
    assert not isinstance(padding, str)  # no network of `models` names its padding
    unfolded = functional.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)


def _imitate(
    layer: nn.Conv2d | nn.Linear,
    following: nn.Module | None,
    mean: Tensor,
    covariance: Tensor,
    smoothing: float,
) -> None:
    """Put the imitating weights in place; bias or BatchNorm's mean takes what the mean loses."""
    old = layer.weight.detach().to(mean.device).double().flatten(1)
    new = imitated(old, covariance, smoothing)
    lost = (old - new) @ mean
    layer.weight.copy_(new.reshape(layer.weight.shape).to(layer.weight.dtype))
    lost = lost.to(layer.weight.dtype).to(layer.weight.device)  # which may have no float64
    if layer.bias is not None:
        layer.bias.add_(lost)
    elif isinstance(following, _BatchNorm) and following.running_mean is not None:
        following.running_mean.sub_(lost)
