"""Training steps recorded as CUDA graphs: the GPU starts their kernels by itself.

A step of a small network is some hundred kernels, and to start them one by one takes the processor
longer than the GPU needs to compute them.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_WARM_UP = 2  # calls before the recording, in which libraries choose their algorithms

Step = Callable[[int | None, Sequence[Tensor]], tuple[Tensor, Tensor]]


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]


class Recordings:
    """Recordings of a step, one for each size of its windows and each shape of its tensors.

    Args:
        device: of all tensors.
        state: the tensors that a step changes and reads again, all in place: the calls before a
            recording must leave them as they are.
    """

    def __init__(self, device: torch.device, state: Sequence[Tensor]) -> None:
        self.device = device
        self.state = state
        self.recordings: dict[Hashable, _Recording] = {}
        # one stream and one pool for all: each would keep a workspace and the memory of a step
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def play(self, step: Step, size: int | None, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the step gives for these tensors.

        Args:
            step: the same in every call. It must not read a value on the CPU, and must change what
                it changes in place.
            size: of the windows, which the step is given.
            tensors: which it is given; of one type for each place in the list.
        """
        key = (size, *(tensor.shape for tensor in tensors))
        with torch.cuda.device(self.device):
            if key not in self.recordings:
                self.recordings[key] = self._recorded(step, size, tensors)
            graph, inputs, outputs = self.recordings[key]
            torch._foreach_copy_(inputs, list(tensors))
            graph.replay()
        return tuple(output.clone() for output in outputs)  # the next step writes over them

    def _recorded(self, step: Step, size: int | None, tensors: Sequence[Tensor]) -> _Recording:
        inputs = [tensor.clone() for tensor in tensors]
        before = [tensor.clone() for tensor in self.state]
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            for _ in range(_WARM_UP):
                step(size, inputs)
        usual.wait_stream(self.stream)
        for now, then in zip(self.state, before, strict=True):
            now.copy_(then)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            outputs = step(size, inputs)
        return _Recording(graph, inputs, outputs)
