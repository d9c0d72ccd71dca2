"""Asks Slurm about requests as the user of the cluster: `ask_preflight.py '[{"partition": "main"}, ...]'`.

Prints one line of JSON: for each request why it would be refused, or null.
"""

from __future__ import annotations

import json
import sys

from slurm.preflight import why_refused
from slurm.units import Resources

if __name__ == "__main__":
    requests = json.loads(sys.argv[1])
    smallest = {"cpus_per_task": 1, "memory_gb": 0.1, "timeout_min": 5}
    print(json.dumps([why_refused(Resources(**{**smallest, **request})) for request in requests]))
