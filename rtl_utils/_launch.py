"""The program that `rtl_utils.kernels` starts: a Jupyter kernel that nothing of the user's reaches.

Run by its path, so it imports nothing of this package; or in a fork, see `_fork`. It reads
RTL_KERNEL, the kernel's own folder and the one its working directory becomes, separated by a line
break.
"""

import importlib.util
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_EVERY = 0.5  # seconds between two checks of the parent


def main(alone: Callable[[], object], ready: Callable[[], object] = int) -> None:
    """Run the kernel until it is told to end, or until the process that asked for it is gone.

    Args:
        alone: returns when that process is gone.
        ready: called when the kernel has its own streams, before it runs cells.
    """
    own, working = os.environ.pop("RTL_KERNEL").split("\n", 1)
    threading.Thread(target=_end_after, args=(alone, own), daemon=True).start()
    if importlib.util.find_spec("rtl_utils") is None:  # `rtl` is run from a folder, not installed
        sys.path.append(str(Path(__file__).resolve().parent.parent))
    # in this empty folder no matplotlibrc is found; and fonts are listed before outputs count
    import matplotlib.font_manager  # noqa: F401

    os.chdir(working)
    application = _application().instance()
    application.initialize()
    ready()
    application.start()


def _application() -> Any:
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelapp import IPKernelApp

    class Kernel(IPythonKernel):
        """Leaves its child processes to the one who started it, see `kernels`."""

        async def _progressively_terminate_all_children(self) -> None:
            return

    class Application(IPKernelApp):
        """Reads no configuration files."""

        kernel_class = Kernel

        def load_config_file(self, *_: Any, **__: Any) -> None:
            return

    return Application


def _parent_is_gone() -> Callable[[], object]:
    """What returns when this process has another parent than at first."""
    # ipykernel's own check would end this process alone, and leave its workers behind
    parent = int(os.environ.pop("JPY_PARENT_PID", 0))

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY)

    return wait


def _end_after(alone: Callable[[], object], own: str) -> None:
    """End this process and its workers when it is alone."""
    alone()
    shutil.rmtree(own, ignore_errors=True)
    if os.getpgrp() == os.getpid():  # true, as it is started in a session of its own
        os.killpg(0, signal.SIGTERM)  # workers too; what tidies up after them ignores the signal
        time.sleep(_EVERY)
    os._exit(1)


if __name__ == "__main__":
    main(_parent_is_gone())
