"""The visitors' kernels: one each, forked where that is possible, ended when nobody needs them."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_server.services.kernels.kernelmanager import (
    AsyncMappingKernelManager,
    ServerKernelManager,
)
from tornado.web import HTTPError

from rtl_utils import folders, kernels
from rtl_utils.app._limits import Limits
from rtl_utils.forks import ForkServer
from rtl_utils.messages import duration

_CLOSED = 60.0  # seconds without a connection after which a page counts as closed
_SOCKET = 107  # longest name of a socket, in bytes
_GONE = "This page has ended. Reload it to start again."
_DIED = "This page's process has ended, perhaps for lack of memory. Reload it to start again."
# what a page may ask of its kernel: that its widgets live, not that code is executed
_MESSAGES = ("comm_open", "comm_close", "comm_msg", "comm_info_request", "kernel_info_request")
_T = TypeVar("_T")


class Kernel(ServerKernelManager):
    """A visitor's kernel: a process of this interpreter, with a folder of its own."""

    # what a page gets instead of a callback's traceback; jupyter_server looks for it here
    traceback_replacement_message = "This failed."

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._forks: ForkServer = traits["parent"].forks
        self.autorestart = False  # a page's sliders are lost with its kernel
        self._own = Path(self.connection_file).with_suffix("")
        name = os.fsencode(f"{self._own}-ipc-5")
        if ForkServer.available() and len(name) <= _SOCKET:  # a port may be taken by others
            self.transport = "ipc"

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        # this interpreter, whatever kernel the user has installed
        arguments = ["-f", self.connection_file, *(extra_arguments or [])]
        return [sys.executable, "-m", "ipykernel_launcher", *arguments]

    async def _async_pre_start_kernel(self, **given: Any) -> tuple[list[str], dict[str, Any]]:
        self._own.mkdir()
        given |= {"env": kernels.environment(self._own, folders.root()), "cwd": str(self._own)}
        return await super()._async_pre_start_kernel(**given)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **given: Any) -> None:
        local = self.provisioner
        assert isinstance(local, LocalProvisioner)
        arguments = kernel_cmd[kernel_cmd.index("-m") + 1 :]
        log = self._own / kernels.LOG
        # in a thread: the first one waits until the server has imported everything
        forked = await asyncio.to_thread(self._forks.fork, arguments, given["env"], self._own, log)
        if forked is None:
            with log.open("w") as stderr:
                await super()._async_launch_kernel(kernel_cmd, stderr=stderr, **given)
        else:  # what the base class keeps of a process that it started
            local.process = forked  # type: ignore[assignment]
            local.pid = local.pgid = forked.pid
            self._reconcile_connection_info(local.connection_info)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        """End also what the kernel itself has started, and remove its folder."""
        pid = getattr(self.provisioner, "pid", None)
        if pid is not None and hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGTERM)
        await super()._async_cleanup_resources(restart=restart)
        shutil.rmtree(self._own, ignore_errors=True)


class Kernels(AsyncMappingKernelManager):
    """All visitors' kernels: as many as there may be, and none longer than it is needed."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)  # type: ignore[no-untyped-call]
        self.forks: ForkServer = traits["parent"].forks
        self.limits: Limits = traits["parent"].limits
        self.allowed_message_types = list(_MESSAGES)
        self.allow_tracebacks = False
        self.kernel_manager_class = f"{__name__}.{Kernel.__name__}"
        self._visits: dict[str, _Visit] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._next = ""

    def prepare(self) -> None:
        """Start a kernel for the next visitor, who then need not wait for it."""
        self._next = self.new_kernel_id()
        self._visits[self._next] = _Visit()
        self._starting = self._beside(self._start(self._next))

    def admit(self) -> "tuple[str, asyncio.Task[Kernel]]":
        """Give a visitor a kernel: its id, and the kernel when it has started.

        Raises:
            HTTPError: of status 503 if every place is taken.
        """
        prepared = self._visits.get(self._next)
        if prepared is None or prepared.ended.done():  # it did not start, or died
            self.prepare()
        if len(self._visits) > self.limits.visitors:  # the one that is prepared has no visitor yet
            raise HTTPError(503)
        admitted = self._next, self._starting
        self._visits[self._next].alone_since = time.monotonic()
        self.prepare()
        return admitted

    def end(self, kernel_id: str, why: str = _GONE) -> None:
        """End a kernel, and tell its page why; it takes some time, in which the place is taken.

        Args:
            kernel_id: of the kernel; one that has ended already is left alone.
            why: a sentence for its page.
        """
        visit = self._visits.get(kernel_id)
        if visit is not None and visit.started and not visit.ended.done():
            visit.ended.set_result(why)
            self._beside(self._stop(kernel_id))

    async def close(self) -> None:
        """End all kernels, and what forks them."""
        self._starting.cancel()
        for kernel_id in list(self._visits):
            self.end(kernel_id)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.forks.process is not None:
            self.forks.process.terminate()  # it may still import, and would not listen
        self.forks.close()

    def remove_kernel(self, kernel_id: str) -> Any:
        """Forget a kernel that has ended."""
        visit = self._visits.pop(kernel_id, None)
        if visit is not None and not visit.ended.done():
            visit.ended.set_result(_GONE)
        return super().remove_kernel(kernel_id)

    def notify_connect(self, kernel_id: str) -> None:
        """A page is there."""
        super().notify_connect(kernel_id)  # type: ignore[no-untyped-call]
        if kernel_id in self._visits:
            self._visits[kernel_id].opened = True

    def notify_disconnect(self, kernel_id: str) -> None:
        """A page is gone, or its connection is interrupted."""
        super().notify_disconnect(kernel_id)  # type: ignore[no-untyped-call]
        if kernel_id in self._visits:
            self._visits[kernel_id].alone_since = time.monotonic()

    def ended(self, kernel_id: str) -> "asyncio.Future[str]":
        """What is done when this kernel ends, with a sentence for its page."""
        if kernel_id in self._visits:
            return self._visits[kernel_id].ended
        gone = asyncio.get_running_loop().create_future()
        gone.set_result(_GONE)
        return gone

    async def cull(self) -> None:
        """Begin to end the kernels that nobody needs; to be called every now and then."""
        for kernel_id, visit in list(self._visits.items()):
            if visit.started and not visit.ended.done():
                why = await self._over(kernel_id, visit)
                if why is not None:
                    self.end(kernel_id, why)

    def _beside(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Do this while other things go on."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop itself keeps no task alive
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, kernel_id: str) -> Kernel:
        try:
            await self._async_start_kernel(kernel_id=kernel_id)
        except BaseException:
            self.remove_kernel(kernel_id)
            raise
        self._visits[kernel_id].started = True
        return cast(Kernel, self.get_kernel(kernel_id))

    async def _stop(self, kernel_id: str) -> None:
        try:
            await self.shutdown_kernel(kernel_id)  # type: ignore[no-untyped-call]
        finally:
            self.remove_kernel(kernel_id)

    async def _over(self, kernel_id: str, visit: "_Visit") -> str | None:
        """Why a kernel is to be ended, in words for its page; None if it is not."""
        kernel = self._kernels[kernel_id]
        if not await kernel.is_alive():
            return _DIED
        unused = (datetime.now(UTC) - kernel.last_activity).total_seconds()
        alone = 0.0 if kernel_id == self._next else time.monotonic() - visit.alone_since
        if self._kernel_connections[kernel_id] > 0:
            over = unused > self.limits.idle and kernel.execution_state != "busy"
        elif visit.opened:
            over = alone > min(_CLOSED, self.limits.idle)
        else:  # its page is not complete yet, or was closed before it was
            over = min(unused, alone) > _CLOSED and kernel.execution_state != "busy"
        limit = duration(self.limits.idle)
        return f"This page was idle for {limit}. Reload it to start again." if over else None


class _Visit:
    """One visitor's time on the page."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.started = False  # the kernel is
        self.opened = False  # the page is
        self.alone_since = time.monotonic()
