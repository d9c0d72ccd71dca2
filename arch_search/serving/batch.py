"""Script of the Slurm job that answers one batch: `python -m arch_search.serving.batch FOLDER ATTEMPT`.

Serves the model to itself on its node, asks every request of the batch and keeps each reply as it comes; an attempt
after a killed one asks only what is left. How the attempt went is the last file that it writes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OneServer, OpenAiClient
from arch_search.config import Llm
from arch_search.errors import ArchSearchError, ModelServerError, ReplyError
from arch_search.paths import BatchPaths
from arch_search.protocols import ModelRequest
from arch_search.serving.endpoint import Endpoint
from arch_search.serving.node import ToldToEndError, ends_when_told, served
from arch_search.serving.order import Ending, read_order, write_ending
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, write_atomic

_HERE = "127.0.0.1"
_REQUESTS = TypeAdapter(tuple[ModelRequest, ...])


def write_requests(requests: Sequence[ModelRequest], path: Path) -> None:
    write_atomic(path, _REQUESTS.dump_json(tuple(requests)))


def read_requests(path: Path) -> tuple[ModelRequest, ...]:
    """Raises ModelServerError for a file of another version of the program."""
    try:
        return _REQUESTS.validate_python(read_json(path))
    except (StoreError, ValidationError) as error:
        raise ModelServerError(f"{path}: no batch of requests ({str(error).splitlines()[0]})") from None


def main(folder: Path, attempt: int) -> int:
    """Answer the batch; 0 when every request has a reply or a refusal."""
    paths = BatchPaths(folder.absolute())
    try:
        with ends_when_told():
            _answer(paths)
    except ToldToEndError as told:
        return _end(paths.attempt(attempt), f"it was told to end by {told}; raise llm.job.timeout_min", failed=True)
    except (ArchSearchError, StoreError, OSError) as error:
        return _end(paths.attempt(attempt), str(error), failed=True)
    return _end(paths.attempt(attempt), "every request is answered", failed=False)


def _answer(paths: BatchPaths) -> None:
    llm, requests = read_order(paths.server.order), read_requests(paths.requests)
    log = CallLog(paths.calls, paths.text)
    with served(llm, paths.server, host=_HERE, say=_say) as process:
        refused = _ask_all(requests, llm, process.endpoint, log)
    write_atomic(paths.refused, json.dumps(refused).encode())


def _ask_all(requests: Sequence[ModelRequest], llm: Llm, endpoint: Endpoint, log: CallLog) -> dict[str, str]:
    """Key -> the server's words, of the requests that it refuses; every other has its reply in the log."""
    client = OpenAiClient(OneServer(endpoint), llm=llm, log=log)
    refused: dict[str, str] = {}

    def ask(request: ModelRequest) -> None:
        try:
            client.complete(request)
        except ReplyError as error:
            refused[request.key] = str(error)

    pool = ThreadPoolExecutor(max_workers=llm.parallel_requests)
    try:
        list(pool.map(ask, requests))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return refused


def _end(path: Path, reason: str, *, failed: bool) -> int:
    _say(reason)
    write_ending(Ending(reason=reason, failed=failed, unix=time.time()), path)
    return 1 if failed else 0


def _say(event: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {event}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
