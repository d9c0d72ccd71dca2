"""The three levels of novelty beside each other: does nearness of text tell nearness of behaviour?

Run: python tests/benchmarks/bench_novelty.py [mutations]     default: 150; five minutes

Programs are what a real model's recorded replies make of the seed program, and random mutations, some of them parents
of later ones. Level 1: equal normal form, other text. Level 2: similarity of what two programs change against the seed.
Level 3: distance of the fingerprints, of unit length; below admission.duplicate_distance the later one is refused.
"""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arch_search.admission.behaviour import fingerprint
from arch_search.admission.subject import Subject
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.errors import ProposalError
from arch_search.proposals import rungs
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.mutation import mutate
from arch_search.proposals.nearness import alike
from arch_search.proposals.registry import BUILT_IN
from arch_search.settings import load_config
from cognition_db.records import Candidate, candidate_id
from tests.benchmarks.recorded_slurm import keep_table

RECORDING = Path(__file__).parents[1] / "data" / "recorded_replies.jsonl"
EDGES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
NEAR = 0.1  # of the output's size
PARENTS = 25


def main(mutations: int) -> None:
    torch.set_num_threads(1)
    behaviours = {text: found for text in dict.fromkeys(programs(mutations)) if (found := _behaviour(text))}
    pairs = [
        (alike(one, other), math.dist(behaviours[one], behaviours[other]))
        for one, other in combinations(behaviours, 2)
        if normal_form(one) != normal_form(other)
    ]
    same = [
        math.dist(behaviours[one], behaviours[other])
        for one, other in combinations(behaviours, 2)
        if normal_form(one) == normal_form(other)
    ]
    limit = load_config([]).admission.duplicate_distance
    lines = [f"{'alike in text':16}{'pairs':>8}{'median distance':>18}{f'below {NEAR:g}':>12}{f'below {limit:g}':>14}"]
    for low, high in zip(EDGES, (*EDGES[1:], math.inf), strict=True):
        apart = [distance for share, distance in pairs if low <= share < high]
        label = f"{low:.2f} to {high:.2f}" if high < math.inf else "1"
        near, equal = (sum(distance < bound for distance in apart) for bound in (NEAR, limit))
        lines.append(f"{label:16}{len(apart):8}{np.median(apart) if apart else math.nan:18.3f}{near:12}{equal:14}")
    lines += [
        "",
        f"n = {len(behaviours)} programs of different text. Of equal normal form: {len(same)} pairs, "
        f"largest distance {max(same, default=0.0):.1g}.",
    ]
    keep_table("novelty", lines)


def programs(mutations: int) -> Iterator[str]:
    """What recorded replies of a real model make of the seed program, and random mutations."""
    seed = _candidate(SEED_PROGRAM)
    for line in RECORDING.read_text(encoding="utf-8").splitlines():
        reply = json.loads(line)
        if reply["role"] != "researcher":
            continue
        try:
            yield rungs.program_from_reply(
                Assignment(rung=reply["rung"], parent=seed, method=reply["method"]), reply["reply"]
            ).program
        except ProposalError:
            continue
    rng, parents = np.random.default_rng(1), [seed]
    for number in range(mutations):
        parent = parents[int(rng.integers(len(parents)))]
        program = mutate(parent, np.random.default_rng([2, number]), BUILT_IN).program
        parents += [_candidate(program)] if len(parents) < PARENTS else []
        yield program


def _candidate(program: str) -> Candidate:
    return Candidate(
        id=candidate_id(program), program=program, class_name="DeltaNet", name="parent", arm="evolve", rung="mutation",
        generation=1, slot=0, parents=(), motivation="", parameter_count=1,
    )  # fmt: skip


def _behaviour(program: str) -> tuple[float, ...]:
    """The fingerprint; nothing where the program does not run. Recorded replies are known and run without a jail."""
    module = types.ModuleType("candidate")
    try:
        exec(compile(program, "candidate", "exec"), module.__dict__)
        return fingerprint(Subject(mixer=module.__dict__["DeltaNet"], d_model=32, n_heads=2))
    except Exception:
        return ()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
