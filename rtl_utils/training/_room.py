"""Trainings on a device whose memory may be too small for them."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rtl_utils import devices
from rtl_utils.training.records import Callback, History, Replica


def attempt(
    group: Sequence[Replica], device: str, train: Callable[[], list[History]], divisible: bool
) -> list[History] | None:
    """What `train` gives back, or None if the device has no room for the group.

    The replicas are then as they were before, so that nothing is lost by the attempt.

    Args:
        group: that `train` trains.
        device: where it does.
        train: the training.
        divisible: whether the group may be trained in parts; else to have no room is an error.

    Raises:
        torch.OutOfMemoryError: if it is one.
    """
    before = [_Start.of(replica) for replica in group] if divisible else []
    try:
        return train()
    except RuntimeError as error:
        if device == "cpu" or not devices.is_out_of_memory(error):
            raise
        if not divisible:
            raise no_room(device, len(group)) from error
    # only here nothing holds the failed training any more, not even the error's traceback
    for replica, start in zip(group, before, strict=True):
        start.restore(replica)
    devices.release(device)
    return None


def no_room(device: str, networks: int) -> torch.OutOfMemoryError:
    """The error that says, in a sentence, that networks do not fit into a device's memory."""
    what = "one network" if networks == 1 else f"{networks} networks at once"
    return torch.OutOfMemoryError(
        f'{device} has no room for {what}; take a smaller width or batch_size, or device = "cpu"'
    )


class _Start(NamedTuple):
    """What a training changes of a replica, as it was before."""

    state: dict[str, Tensor]
    callback: Callback | None

    @classmethod
    def of(cls, replica: Replica) -> "_Start":
        """Copies, which lie in the processor's memory."""
        state = {name: value.cpu().clone() for name, value in replica.net.state_dict().items()}
        return cls(state, copy.deepcopy(replica.callback))

    def restore(self, replica: Replica) -> None:
        """Put the replica back to where it was, off the device."""
        replica.net.cpu().load_state_dict(self.state)
        replica.callback = self.callback
