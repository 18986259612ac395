"""Where batch runs are executed: launchers that start Dask clusters.

A launcher is a function that takes a `Request` and returns a Dask cluster whose workers have one
thread each. A site's own is a file with a function `launch`, given as `--launcher my_site.py`:

    from dask_jobqueue import SLURMCluster

    def launch(request):
        cluster = SLURMCluster(
            queue="long", cores=request.cores, processes=1, memory="8 GB",
            worker_extra_args=["--nthreads", "1"],
        )
        cluster.scale(jobs=request.workers or 4)
        return cluster
"""

import logging
import os
import runpy
import shutil
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from rtl_utils.messages import cut, shown

GPU = "GPU"  # name of the Dask resource that a run on a GPU asks for
_MEMORY = "4 GB"  # of a job in a queue, unless its option says otherwise


class Request(NamedTuple):
    """What is asked of a launcher.

    Args:
        workers: runs at once; None for as many as the machine has room for, or one job in a queue.
        cores: processor cores per run.
        gpus: GPUs per run.
        options: the launcher's own, such as {"queue": "long", "walltime": "04:00:00"}.
    """

    workers: int | None = None
    cores: int = 1
    gpus: int = 0
    options: Mapping[str, Any] = {}


Launcher = Callable[[Request], Any]


def find(name: str) -> Launcher:
    """The launcher of that name, or the function `launch` of a Python file.

    Raises:
        ValueError: if there is none.
    """
    if name in LAUNCHERS:
        return LAUNCHERS[name]
    if not name.endswith(".py"):
        known = ", ".join(LAUNCHERS)
        raise ValueError(
            f"--launcher must be one of {known}, or a .py file with a function `launch`; "
            f"got {shown(name)}"
        )
    if not Path(name).is_file():
        raise ValueError(f"--launcher {shown(name)} is not a file; the name is relative to here")
    try:
        launch = runpy.run_path(name).get("launch")
    except Exception as error:  # the file is the user's
        raise ValueError(f"{name} cannot be run as a launcher ({_said(error)})") from error
    if not callable(launch):
        raise ValueError(f"{name} must define a function `launch(request)`; it does not")
    found: Launcher = launch
    return found


def start(name: str, request: Request) -> Any:
    """A cluster of the launcher of that name.

    Raises:
        ValueError: if it cannot start.
    """
    launch = find(name)
    try:
        cluster = launch(request)
    except ValueError:
        raise
    except Exception as error:  # a launcher of one's own can raise anything
        raise ValueError(f"launcher {name} could not start ({_said(error)})") from error
    if not hasattr(cluster, "close"):
        raise ValueError(f"launch(request) of {name} must return a Dask cluster; got {cluster!r}")
    return cluster


def _said(error: Exception) -> str:
    return cut(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)


def local(request: Request) -> Any:
    """Workers on this machine: as many as its cores, or its GPUs, have room for."""
    from distributed import Nanny, Scheduler, SpecCluster

    places = _places(request)
    common = {
        "nthreads": 1,
        "memory_limit": 0,  # a worker only waits for its kernel, whose memory Dask does not see
        "dashboard_address": None,
        "silence_logs": logging.CRITICAL,
    }
    # a worker that dies is replaced or reported; Dask's own lines about it help nobody
    quiet = {"DASK_LOGGING__DISTRIBUTED": "critical"}
    workers = {
        name: {"cls": Nanny, "options": common | place | {"env": quiet | place.get("env", {})}}
        for name, place in enumerate(places)
    }
    address = {"host": "127.0.0.1", "port": 0, "dashboard_address": None}
    scheduler = {"cls": Scheduler, "options": address}
    return SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL)


def room(request: Request) -> int:
    """How many runs this machine executes at once.

    Raises:
        ValueError: if it has too few cores or GPUs.
    """
    return len(_places(request))


def _places(request: Request) -> list[dict[str, Any]]:
    """What is particular to each local worker: the GPUs that it sees."""
    from loky import cpu_count

    if request.options:
        named = ", ".join(request.options)
        raise ValueError(f"the launcher local has no options; got {named}")

    cores = cpu_count()  # as the container and LOKY_MAX_CPU_COUNT say
    if request.cores > cores:
        raise ValueError(
            f"--cores-per-run must be at most {cores}, the cores of this machine; "
            f"got {request.cores}"
        )
    if request.gpus == 0:
        return [{} for _ in range(request.workers or cores // request.cores)]
    gpus = _gpus()
    room = len(gpus) // request.gpus
    if room == 0 or (request.workers or 1) > room:
        raise ValueError(
            f"GPUs asked for: {request.gpus} for each of {request.workers or 1} runs at once; this "
            f"machine has {len(gpus)}: ask for fewer with --gpus-per-run or --workers"
        )
    shares = [gpus[k * request.gpus : (k + 1) * request.gpus] for k in range(room)]
    return [
        {"env": {"CUDA_VISIBLE_DEVICES": ",".join(share)}, "resources": {GPU: request.gpus}}
        for share in shares[: request.workers]
    ]


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES writes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name for name in visible.split(",") if name]
        # CUDA ignores a negative number and all that follow it
        return list(takewhile(lambda name: not name.startswith("-"), names))
    import torch

    return [str(k) for k in range(torch.cuda.device_count())]


def _queue(cluster: str, submit: str) -> Launcher:
    """A launcher for a batch system that dask-jobqueue knows, by its command that submits a job.

    One job is one worker.
    """

    def launch(request: Request) -> Any:
        try:
            import dask_jobqueue
        except ImportError:
            raise ValueError(
                "this launcher needs dask-jobqueue: pip install 'rtl-utils[cluster]'"
            ) from None
        if shutil.which(submit) is None:
            raise ValueError(
                f"this launcher calls {submit}, which is not on this machine; call `rtl batch` "
                "where jobs are submitted"
            )
        extra = ["--nthreads", "1"]
        if request.gpus:
            extra += ["--resources", f"{GPU}={request.gpus}"]
        settings: dict[str, Any] = {"cores": request.cores, "processes": 1, "memory": _MEMORY}
        settings["worker_extra_args"] = extra
        if cluster == "HTCondorCluster":
            settings["disk"] = _MEMORY  # it must be told
        if request.gpus and cluster == "SLURMCluster":
            settings["job_extra_directives"] = [f"--gpus={request.gpus}"]
        try:
            jobs = getattr(dask_jobqueue, cluster)(**(settings | dict(request.options)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"dask_jobqueue.{cluster} does not accept its options ({error})"
            ) from error
        jobs.scale(jobs=request.workers or 1)
        return jobs

    return launch


LAUNCHERS: dict[str, Launcher] = {
    "local": local,
    "slurm": _queue("SLURMCluster", "sbatch"),
    "pbs": _queue("PBSCluster", "qsub"),
    "sge": _queue("SGECluster", "qsub"),
    "lsf": _queue("LSFCluster", "bsub"),
    "htcondor": _queue("HTCondorCluster", "condor_submit"),
    "oar": _queue("OARCluster", "oarsub"),
}
