"""A GPU that is not there: tensors compute on the CPU, to the bit, and carry a device of their own.

Inside `PretendDevice` torch says that the machine has GPUs. An operation that a GPU refuses is
refused: operands on two devices, `.numpy()` of what lies on it, float64 on Apple's, more memory
than it has. What crosses to it and what makes the host wait for it is counted, by the line of the
package that asked for it.
"""

import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
GPUS = 2
NAME = "Pretend GPU"
aten = torch.ops.aten
MOVES = {aten.copy_.default, aten._to_copy.default}
INDEXES = {
    aten.index.Tensor,
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
}
WAITS = {  # their result, or its shape, is needed on the host
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}


class MixedDevices(RuntimeError):
    """Operands of one operation lie on two devices."""


class PretendDevice:
    """A context in which this machine has GPUs.

    Args:
        kind: "cuda", of which there are two, "mps", or "none" for a machine without.
        memory: bytes that each has; None for no limit.

    copies: from the host to a GPU, line of the package -> how many.
    waits: of the host for a GPU, likewise; a copy back is one.
    peak: most bytes that lay on GPUs, where there is a limit.
    """

    def __init__(self, kind="cuda", memory=None):
        self.kind = kind
        self.memory = memory
        self.copies = Counter()
        self.waits = Counter()
        self.peak = 0
        self.quiet = False  # inside what waits or copies in the pretence alone
        self.calls = []  # devices of the calls in progress: what these allocate lies there
        self._tags = {}  # storage -> (weak reference, device, bytes)
        self._stack = ExitStack()

    def __enter__(self):
        there = {
            "torch.cuda.is_available": self.kind == "cuda",
            "torch.cuda.device_count": GPUS if self.kind == "cuda" else 0,
            "torch.cuda.get_device_name": NAME,
            "torch.cuda.empty_cache": None,
            "torch.backends.mps.is_available": self.kind == "mps",
            "torch.backends.mps.get_name": NAME,
            "torch.mps.empty_cache": None,
        }
        for name, value in there.items():
            self._stack.enter_context(mock.patch(name, lambda *_, value=value: value))
        # its kernels are the CPU's, which a CUDA build of torch could not record
        self._stack.enter_context(mock.patch("torch.version.cuda", None))
        self._stack.enter_context(_Dispatch(self))
        self._stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *error):
        self._stack.close()

    def device(self, tensor):
        """Where a tensor lies."""
        found = self._tags.get(_storage(tensor)._cdata)
        return CPU if found is None or found[0].expired() else found[1]

    def put(self, tensor, device):
        """Say where a tensor lies."""
        storage = _storage(tensor)
        self._tags.pop(storage._cdata, None)
        if device == CPU:
            return
        if device.type == "mps" and tensor.dtype == torch.float64:
            raise TypeError(f"MPS has no float64 ({place()})")
        self._tags[storage._cdata] = (StorageWeakRef(storage), device, storage.nbytes())
        if self.memory is not None:
            self._tags = {key: tag for key, tag in self._tags.items() if not tag[0].expired()}
            used = sum(size for *_, size in self._tags.values())
            self.peak = max(self.peak, used)
            if used > self.memory:
                raise torch.OutOfMemoryError(f"CUDA out of memory ({place()})")

    def move(self, tensor, device):
        """A copy on the device, or the tensor itself if it lies there."""
        have = self.device(tensor)
        if have == device:
            return tensor
        self.count(have, device)
        copied = tensor.clone()  # which autograd knows, as it does the real copy
        self.put(copied, device)
        return copied

    def count(self, origin, device):
        """Note a copy between two devices."""
        if self.quiet:
            return
        if device != CPU:
            self.copies[place()] += 1
        if origin != CPU:
            self.wait()

    def wait(self):
        """Note that the host waits."""
        if not self.quiet:
            self.waits[place()] += 1

    @contextmanager
    def silence(self):
        """Where a GPU does otherwise than the CPU that stands for it."""
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False

    @contextmanager
    def calling(self, tensors):
        """While a call of these arguments is in progress."""
        devices = [self.device(tensor) for tensor in tensors]
        self.calls.append(next((device for device in devices if device != CPU), CPU))
        try:
            yield
        finally:
            self.calls.pop()


class _Dispatch(TorchDispatchMode):
    """Sees every operation on tensors, also those of the backward pass."""

    def __init__(self, pretend):
        super().__init__()
        self.pretend = pretend

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        pretend, kwargs = self.pretend, kwargs or {}
        tensors = tensors_of(args, kwargs)
        if func in MOVES:
            home = pretend.device(args[0])
            if len(tensors) > 1 and pretend.device(tensors[1]) != home:
                pretend.count(pretend.device(tensors[1]), home)
        elif func in INDEXES:
            home = self.indexed(func, args)
        else:
            home = self.common(func, tensors)
        if func in WAITS and home != CPU:
            pretend.wait()
        if not tensors and pretend.calls:
            home = pretend.calls[-1]
        out = func(*args, **kwargs)
        if home != CPU:
            for tensor in tensors_of(out):
                pretend.put(tensor, home)
        return out

    def common(self, func, tensors):
        """The one device of the operands; a number of the host may stand beside those of a GPU."""
        devices = {self.pretend.device(tensor) for tensor in tensors if tensor.ndim}
        numbers = {self.pretend.device(tensor) for tensor in tensors if not tensor.ndim} - {CPU}
        if len(devices | numbers) > 1:
            shapes = [f"{tuple(t.shape)} on {self.pretend.device(t)}" for t in tensors]
            raise MixedDevices(f"{func} at {place()}: {', '.join(shapes)}")
        return next(iter(devices | numbers), CPU)

    def indexed(self, func, args):
        """The device of what is indexed; an index of the host goes over, as it does on a GPU."""
        home = self.pretend.device(args[0])
        self.common(func, [args[0], *[value for value in args[2:] if isinstance(value, Tensor)]])
        for index in args[1]:
            if index is None:
                continue
            if home != CPU and self.pretend.device(index) == CPU:
                self.pretend.count(CPU, home)
            else:
                self.common(func, [args[0], index])
            if home != CPU and index.dtype in (torch.bool, torch.uint8):
                self.pretend.wait()  # for the number of rows
        return home


class _Functions(TorchFunctionMode):
    """Sees every call of torch: devices are asked for and named here."""

    def __init__(self, pretend):
        super().__init__()
        self.pretend = pretend

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:
            return self.pretend.device(args[0])
        if func in (Tensor.is_cuda.__get__, Tensor.is_mps.__get__, Tensor.is_cpu.__get__):
            kind = self.pretend.device(args[0]).type
            return func == getattr(Tensor, f"is_{kind}").__get__
        special = getattr(self, f"_{name.strip('_')}", None)
        if special is not None:
            return special(func, *args, **kwargs)
        device = kwargs.get("device")
        if device is not None:
            return self.made(func, args, kwargs, canonical(device))
        with self.pretend.calling(tensors_of(args, kwargs)):
            return func(*args, **kwargs)

    def made(self, func, args, kwargs, device):
        """What a call makes on a device."""
        if func in (torch.tensor, torch.as_tensor) and device != CPU:
            if isinstance(args[0], Tensor):
                return self._to(Tensor.to, args[0], device, kwargs.get("dtype"))
            self.pretend.count(CPU, device)
        out = func(*args, **(kwargs | {"device": "cpu"}))
        self.pretend.put(out, device)
        return out

    def _parse_to(self, func, *args, **kwargs):
        return func(*args, **kwargs)  # only reads the names

    def _to(self, func, tensor, *args, **kwargs):
        if args and isinstance(args[0], Tensor):
            device, kwargs = self.pretend.device(args[0]), {"dtype": args[0].dtype} | kwargs
        else:
            kwargs.pop("copy", None)
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
            kwargs = {"dtype": dtype, "memory_format": layout}
            device = self.pretend.device(tensor) if device is None else canonical(device)
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        # the host changes the type, as not every GPU knows each
        if device == CPU:
            tensor = self.pretend.move(tensor, device)
        changed = func(tensor, **kwargs) if kwargs else tensor
        return self.pretend.move(changed, device)

    def _cpu(self, func, tensor, *args, **kwargs):
        return self.pretend.move(tensor, CPU)

    def _cuda(self, func, tensor, device="cuda", **kwargs):
        return self.pretend.move(tensor, canonical(device))

    def _numpy(self, func, tensor, *args, **kwargs):
        if self.pretend.device(tensor) != CPU:
            raise TypeError(f"a tensor on a GPU is no array ({place()}): use Tensor.cpu() first")
        return func(tensor, *args, **kwargs)

    _array = _numpy

    def _tolist(self, func, tensor):
        return func(self.pretend.move(tensor, CPU))

    def _deepcopy(self, func, tensor, memo):
        with self.pretend.silence():  # it copies the storage, which has no device of its own
            copied = func(tensor, memo)
        self.pretend.put(copied, self.pretend.device(tensor))
        return copied

    def _one_hot(self, func, *args, **kwargs):
        with self.pretend.silence(), self.pretend.calling(tensors_of(args, kwargs)):
            return func(*args, **kwargs)  # only on a CPU it looks at the labels


def tensors_of(*values):
    """The tensors among nested values."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def canonical(device):
    """A device by its number: cuda is cuda:0."""
    device = torch.device(device)
    return device if device.type == "cpu" else torch.device(device.type, device.index or 0)


def place():
    """The line of the package that is running, or of the test."""
    frames = [
        frame for frame in traceback.extract_stack() if "pretend_device" not in frame.filename
    ]
    inside = [frame for frame in frames if "rtl_utils" in frame.filename] or frames
    return f"{inside[-1].filename.rpartition('/')[2]}:{inside[-1].lineno}"


def _storage(tensor):
    """What a tensor's values lie in, also inside `vmap`."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()
