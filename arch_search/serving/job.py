"""Script of the Slurm job that serves a model: `python -m arch_search.serving.job FOLDER`.

Reads the order in FOLDER, starts vLLM at the address of its node, publishes the endpoint once a token came back, and
ends vLLM's whole session when it is told to or when vLLM itself has ended; ended.json then says why.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from arch_search.errors import ArchSearchError, ModelServerError
from arch_search.paths import ServerPaths
from arch_search.serving.endpoint import JobEndpoint, write_job_endpoint
from arch_search.serving.node import ToldToEndError, ends_when_told, job_number, node_address, node_name, served
from arch_search.serving.order import Ending, read_order, write_ending
from arch_search.serving.process import is_running
from arch_search.serving.server import ServerProcess, why_ended
from cognition_db.experience.errors import StoreError

_LOOK_S = 0.5
_BEAT_S = 10.0


def main(folder: Path) -> int:
    """Serve until told to end; 0 when told, 1 after a failure."""
    paths, began_unix = ServerPaths(folder.absolute()), time.time()
    try:
        with ends_when_told():
            _serve(paths, began_unix)
    except ToldToEndError as told:
        # scancel by a person counts as a failure, so that the driver does not submit for ever
        is_limit = str(told) == "SIGUSR1"
        reason = "its time limit came near" if is_limit else f"it was told to end by {told}"
        return _end(paths, reason, failed=not is_limit)
    except (ArchSearchError, StoreError, OSError) as error:
        return _end(paths, str(error), failed=True)


def _serve(paths: ServerPaths, began_unix: float) -> NoReturn:
    """Raises ModelServerError when the server ends, ToldToEndError when it is to end; never returns."""
    llm = read_order(paths.order)
    with served(llm, paths, host=node_address(os.environ), say=_say) as process:
        published = JobEndpoint(
            endpoint=process.endpoint,
            job_id=str(job_number()),
            node=node_name(),
            started_unix=began_unix,
            ends_unix=ends_unix(os.environ, began_unix=began_unix, timeout_min=llm.job.timeout_min),
        )
        write_job_endpoint(published, endpoint_file=paths.endpoint, key_file=paths.key)
        _say(f"serving {process.endpoint.model} at {process.endpoint.base_url}")
        _watch(process, paths.endpoint)
        raise ModelServerError(f"the model server ended: {why_ended(process)}")


def ends_unix(variables: Mapping[str, str], *, began_unix: float, timeout_min: int) -> float:
    """When Slurm ends the job: what Slurm says (from 23.02 on), else the time asked for; seconds since 1970."""
    said = variables.get("SLURM_JOB_END_TIME", "")
    return float(said) if said.isdecimal() else began_unix + 60 * timeout_min


def _watch(process: ServerProcess, endpoint_file: Path) -> None:
    """Return when the server has ended; until then the time of the endpoint file is the heartbeat of the job."""
    assert process.record is not None
    beat = time.monotonic()
    while is_running(process.record.pid, process.record.start_ticks):
        time.sleep(_LOOK_S)
        if time.monotonic() - beat >= _BEAT_S:
            beat = time.monotonic()
            os.utime(endpoint_file)


def _end(paths: ServerPaths, reason: str, *, failed: bool) -> int:
    _say(reason)
    write_ending(Ending(reason=reason, failed=failed, unix=time.time()), paths.ended)
    return 1 if failed else 0


def _say(event: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {event}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
