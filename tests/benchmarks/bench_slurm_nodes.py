"""One array of light units on a real Slurm of many nodes, all on this machine, from submission to the last result.

Run: python tests/benchmarks/bench_slurm_nodes.py [nodes] [elements] [seconds each sleeps]     default: 10 100 2

100 nodes and 1000 elements (100 1000 5) need 1 GB and a machine that does nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.recorded_slurm import keep_table
from tests.slurm_cluster.cluster import SlurmCluster, missing_programs
from tests.slurm_cluster.configuration import ClusterOptions

CPUS = 2  # of a node, as it claims; an element asks for one
DRIVE = Path(__file__).parents[1] / "slurm_cluster" / "drive.py"
LIMIT_S = 1800


def main(nodes: int = 10, elements: int = 100, sleep_s: float = 2.0) -> None:
    missing = missing_programs()
    if missing:
        print(f"Slurm is not installed ({', '.join(missing)}): run tests/slurm_cluster/install.sh as root")
        return
    options = ClusterOptions(nodes=nodes, cpus_per_node=CPUS, accounting=False, max_array_size=elements + 1)
    began = time.perf_counter()
    with SlurmCluster(options) as cluster:
        started_s = time.perf_counter() - began
        folder = cluster.make_folder("scale")
        command = [cluster.python, str(DRIVE), "run", str(folder), "asx-scale"]
        command += ["--count", str(elements), "--sleep-s", str(sleep_s), "--max-parallel", str(nodes * CPUS)]
        command += ["--poll-s", "2", "--limit-s", str(LIMIT_S)]
        began = time.perf_counter()
        done = cluster.run_as_user(command, timeout_s=LIMIT_S + 60)
        wall_s = time.perf_counter() - began
        if done.returncode != 0:
            sys.exit(done.stderr)
        submission = json.loads((folder / "submission.json").read_text())
        results = len(list(folder.glob("*.done")))
        starts = len(list(folder.glob("*.started.*")))
        desks = [desk for desk in folder.iterdir() if desk.is_dir()]
        files = sum(1 for desk in desks for _ in desk.iterdir())
    answer = json.loads(done.stdout.splitlines()[-1])
    ends = Counter(states[-1] for states in answer["seen"].values())
    ideal_s = sleep_s * -(-elements // (nodes * CPUS))
    keep_table(
        "slurm_nodes",
        [
            f"{nodes} slurmd of {CPUS} CPUs each, {elements} elements of `sleep {sleep_s:g}`, no accounting",
            f"daemons started and idle            {started_s:8.1f} s",
            f"submitted to last result seen       {wall_s:8.1f} s ({ideal_s:g} s of sleeping at full width)",
            f"arrays                              {len(submission['arrays']):8d}",
            f"elements with a result              {results:8d} of {elements}, started {starts} times",
            f"states they ended in                {dict(ends)}",
            f"files of ours and submitit          {files:8d} beside the units' own",
        ],
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]), *(float(argument) for argument in sys.argv[3:4]))
