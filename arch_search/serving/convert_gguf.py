"""Script: turn one GGUF file into a folder of safetensors that vLLM loads on a CPU.

Run by the python of the vLLM environment, never imported by the project:
`python convert_gguf.py MODEL.gguf OUT_FOLDER`. vLLM has no CPU kernel for GGUF quantisation, hence bfloat16.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer  # type: ignore[import-not-found, unused-ignore]


def main(gguf: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(out)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="bfloat16")
    weights = untied(model.state_dict())
    # model.save_pretrained refuses a model that was read from GGUF
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "config.json", served_config(model, has_head="lm_head.weight" in weights))
    write_json(
        out / "generation_config.json",
        {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id},
    )


def untied(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors of `state` without second names of storage already kept, each contiguous."""
    kept: dict[str, Any] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.contiguous()
    return kept


def served_config(model: Any, *, has_head: bool) -> dict[str, Any]:
    config = dict(model.config.to_dict())
    config.pop("quantization_config", None)
    return config | {
        "architectures": [type(model).__name__],
        "dtype": "bfloat16",
        "tie_word_embeddings": not has_head,
    }


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
