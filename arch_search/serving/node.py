"""A model server on the node of a Slurm job: found ready-made, started at an address of its own, ended whole."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from arch_search.config import Llm
from arch_search.errors import ModelServerError
from arch_search.paths import ServerPaths
from arch_search.serving import server
from arch_search.serving.environment import Say, require_environment, serves_on_gpu
from arch_search.serving.machine import has_nvidia_gpu
from arch_search.serving.server import ServerFiles, ServerProcess
from arch_search.serving.weights import require_weights

_FIRST_PORT = 20_000
_PORTS = 6_000  # below the ports that systems give to clients by themselves
_STARTS = 5
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class ToldToEndError(Exception):
    """Slurm or a person told the job to end; the signal's name."""


@contextmanager
def ends_when_told() -> Iterator[None]:
    """ToldToEndError is raised in the main thread at the first SIGTERM (scancel) or SIGUSR1 (time limit near)."""

    def tell(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise ToldToEndError(signal.Signals(number).name)

    for each in _SIGNALS:
        signal.signal(each, tell)
    yield


@contextmanager
def served(llm: Llm, paths: ServerPaths, *, host: str, say: Say) -> Iterator[ServerProcess]:
    """A server that has given its first token; its whole session is ended when the block is left.

    Raises:
        ModelServerError: environment or weights are missing, the node is unfit, or the server does not get ready.
    """
    python, weights = require_environment(llm), require_weights(llm)
    if serves_on_gpu(llm) and not has_nvidia_gpu():
        raise ModelServerError(
            f"node {node_name()} shows no GPU, although llm.job asks for one; exclude it in llm.job.extra_sbatch"
        )
    files = ServerFiles(endpoint=paths.process, key=paths.key, log=paths.log)
    ports = free_ports(host, job_number())
    try:
        for start in range(_STARTS):
            port = next(ports)
            # vLLM's own sockets: beside those of another server on this node
            os.environ["VLLM_PORT"] = str(port + _PORTS)
            process = server.spawn(llm, python=python, weights=weights, files=files, host=host, port=port)
            try:
                server.wait_ready(process, llm, say=say)
            except ModelServerError as error:
                # somebody took the port between our look and vLLM's
                if "Address already in use" not in str(error) or start == _STARTS - 1:
                    raise
                continue
            yield process
            return
    finally:
        server.stop(paths.process)


def free_ports(host: str, number: int) -> Iterator[int]:
    """Ports that nobody has at present, from the one that follows from the number of the job on."""
    for step in range(_PORTS):
        port = _FIRST_PORT + (number + step) % _PORTS
        if _is_free(host, port):
            yield port
    raise ModelServerError(f"no free port from {_FIRST_PORT} to {_FIRST_PORT + _PORTS} on {host}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def node_address(variables: Mapping[str, str]) -> str:
    """The address of this node that the host of the driver reaches.

    Raises:
        ModelServerError: the node can be reached by nobody but itself.
    """
    submit_host = variables.get("SLURM_SUBMIT_HOST", "")
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        # nothing is sent: the kernel only chooses the interface
        towards.connect((submit_host or socket.gethostname(), 9))
        return str(towards.getsockname()[0])
    with suppress(OSError):
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            return own
    raise ModelServerError(
        f"node {node_name()} knows no address of its own that {submit_host or 'other hosts'} could reach; tell the site"
    )


def node_name() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def job_number() -> int:
    """The id of our job; 0 outside of Slurm."""
    return int(os.environ.get("SLURM_JOB_ID", "0"))
