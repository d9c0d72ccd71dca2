"""The trusted half of a task: prepares its folder, runs its child in a jail, watches, scores, records. Torch-free.

Whatever ends a supervisor, the next one of the same unit goes on: finished evaluations are kept and the running task
continues from the checkpoint of its child.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from arch_search.errors import ArchSearchError, CampaignError
from arch_search.evaluation import heldout, recall
from arch_search.jail.python import jailed_python
from arch_search.jail.run import JailResult, Limits, run_jailed
from arch_search.paths import GenerationPaths, UnitPaths
from arch_search.training.data import Corpus, load_corpus, open_tokens
from arch_search.training.seeds import derive_seed
from arch_search.worker import manifest as manifests
from arch_search.worker.folder import (
    EXIT_OURS,
    EXIT_STOPPED,
    MAX_CAUSE_CHARS,
    ChildResult,
    Order,
    Progress,
    TaskFolder,
    read_message,
    write_message,
    write_npy,
)
from arch_search.worker.heartbeat import Heartbeat, read_heartbeat, write_heartbeat
from arch_search.worker.manifest import Manifest
from arch_search.worker.scoring import Questions, Scored, read_result, score
from arch_search.worker.watch import Early, Verge, judge
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, remove_stale_temporaries, write_atomic
from cognition_db.experience.shard import write_shard
from cognition_db.records import Evaluation, Pack, Task, from_json, sha256_text, to_json

SHARD_WRITTEN, FAILED, HELD_BY_ANOTHER, COME_BACK = 0, 1, 3, 4
HEARTBEAT_EVERY_S = 1.0
# time for one step and a checkpoint; most sites give 30 s between SIGTERM and SIGKILL
STOP_GRACE_S = 20.0
CHILD_THREADS_SPARE = 64
