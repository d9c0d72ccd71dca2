"""Prints, for each program file, which functions an operator stands in for, and whether the mixer agrees."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from arch_search.models import stand_in
from arch_search.models.fast_path import replacements, verified
from arch_search.models.loading import build_mixer, load_mixer_class

torch.set_num_threads(1)
stand_in.install()
for file in map(Path, sys.argv[1:]):
    mixer = load_mixer_class(file, None, default_class="DeltaNet")
    program = sys.modules[mixer.__module__]
    found = replacements(program)
    built = build_mixer(mixer, d_model=32, n_heads=2, layer_idx=0)
    kept = verified(program, found, built, d_model=32)
    print(json.dumps({"program": file.stem, "found": [one.operator for one in found], "kept": len(kept)}))
