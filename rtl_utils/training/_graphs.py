"""Steps that a GPU starts by itself: their kernels are recorded once and played back.

A step of a small network is some hundred kernels, and to start them one by one takes the processor
longer than the GPU needs to compute them.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_WARM_UP = 2  # calls before the recording, in which libraries choose their algorithms

Call = Callable[..., tuple[Tensor, ...]]


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]


class Recorded:
    """A function of tensors on a GPU that is recorded once for each choice and shape of tensors.

    Args:
        call: (choice, tensors) -> tensors. What it changes beside must be changed in place, and it
            may not look at a value.
        changed: the tensors that it changes and reads again, which the calls before the recording
            must leave as they are.
    """

    def __init__(self, call: Call, changed: Sequence[Tensor]) -> None:
        self.call = call
        self.changed = changed
        self.recordings: dict[Hashable, _Recording] = {}

    def __call__(self, choice: Hashable, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the function gives for these tensors."""
        key = (choice, *(tensor.shape for tensor in tensors))
        if key not in self.recordings:
            self.recordings[key] = self._recorded(choice, tensors)
        graph, inputs, outputs = self.recordings[key]
        torch._foreach_copy_(inputs, list(tensors))
        graph.replay()
        return tuple(output.clone() for output in outputs)  # the next call writes over them

    def _recorded(self, choice: Hashable, tensors: Sequence[Tensor]) -> _Recording:
        inputs = [tensor.clone() for tensor in tensors]
        before = [tensor.clone() for tensor in self.changed]
        beside = torch.cuda.Stream(inputs[0].device)
        beside.wait_stream(torch.cuda.current_stream(inputs[0].device))
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                self.call(choice, inputs)
        torch.cuda.current_stream(inputs[0].device).wait_stream(beside)
        for now, then in zip(self.changed, before, strict=True):
            now.copy_(then)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.call(choice, inputs)
        return _Recording(graph, inputs, outputs)
