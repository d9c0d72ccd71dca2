"""Token mixers of linear cost, starting from DeltaNet."""

from importlib import resources
from pathlib import Path

from arch_search import models
from arch_search.contract import Contract
from arch_search.domains.domain import Domain, Words

SEED_PROGRAM = resources.files(__name__).joinpath("seed_program.py").read_text(encoding="utf-8")

DOMAIN = Domain(
    name="linear_attention",
    contract=Contract(class_name="DeltaNet", place="token_mixer", probes=("recall",)),
    words=Words(
        things="sequence mixers",
        thing="mixer",
        definition="causal replacements of attention with linear cost",
        keywords="hidden_size, num_heads, layer_idx",
        token_rule="token t sees tokens up to t only",
        cost_rule="cost grows linearly with length",
        effectiveness="stores and recalls better than the delta rule it came from",
    ),
    reference="deltanet",
    seed_program=SEED_PROGRAM,
    baselines=tuple(Path(models.__file__).parent / room for room in ("baselines", "gallery")),
    insight_tags=(
        "feature_map",
        "write_strength",
        "decay",
        "read_out",
        "mix_paths",
        "output_gate",
        "convolution",
        "memory",
    ),
    known_programs=Path(__file__).parent / "known_programs.json",
)

__all__ = ["DOMAIN", "SEED_PROGRAM"]
