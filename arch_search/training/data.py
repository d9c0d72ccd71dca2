"""Corpora: text or token files become two flat arrays, train.bin and heldout.bin, described by corpus.json."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import math
import os
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arch_search.config import Data
from arch_search.errors import DataError
from cognition_db.experience.files import write_atomic

CORPUS_FILE = "corpus.json"
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".py")
# not prose or code a reader would want: tests, bundled wheels, demos, and the generated character tables of encodings
STDLIB_SKIPPED = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "encodings",
}
MIN_TRAIN_TOKENS = 4096
MIN_HELDOUT_TOKENS = 1024
# xz sees this much of the held-out text when the loss floor is set
FLOOR_SAMPLE_BYTES = 1 << 20
# no causal model of any size is known to need less than about half of what xz needs; a quarter leaves a margin
FLOOR_SHARE_OF_XZ = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Two token files: uint8 where `vocab` is 256 (bytes of text), little-endian uint16 otherwise.

    `floor_nats` is the loss per token under which a training is taken for a leak: a quarter of what xz needs.
    """

    train: Path
    heldout: Path
    vocab: int
    train_tokens: int
    heldout_tokens: int
    sha256: str
    description: str
    token_bytes: int
    floor_nats: float

    @property
    def is_bytes(self) -> bool:
        return self.token_bytes == 1


@dataclass(frozen=True, slots=True)
class _Piece:
    """One source file: `name` decides its side of the split, `read(limit)` gives at most `limit` bytes of tokens."""

    name: str
    read: Callable[[int], bytes]


def prepare(data: Data, out: Path) -> Corpus:
    """Make the corpus that `data` asks for in folder `out`, or find it there; raises DataError in one line."""
    request = {"kind": data.kind, "path": data.path, "heldout_share": data.heldout_share, "max_bytes": data.max_bytes}
    try:
        if _request_of(out) == request:
            return load_corpus(out)
        pieces, token_bytes, description = _source(data)
        train, heldout = _split(pieces, heldout_share=data.heldout_share, max_bytes=data.max_bytes, token=token_bytes)
        _check_sizes(len(train) // token_bytes, len(heldout) // token_bytes, description)
        write_atomic(out / "train.bin", train)
        write_atomic(out / "heldout.bin", heldout)
        facts = _facts(train, heldout, token_bytes=token_bytes, description=description)
        write_atomic(out / CORPUS_FILE, json.dumps({"request": request, "corpus": facts}, indent=1).encode())
    except OSError as error:
        raise DataError(f"data: {error.strerror or error}: {error.filename or data.path}") from None
    return load_corpus(out)


def load_corpus(folder: Path) -> Corpus:
    """The corpus that `prepare` left in `folder`; raises DataError where files are missing or cut."""
    path = folder / CORPUS_FILE
    try:
        facts = json.loads(path.read_bytes())["corpus"]
        corpus = Corpus(train=folder / "train.bin", heldout=folder / "heldout.bin", **facts)
        sizes = (corpus.train.stat().st_size, corpus.heldout.stat().st_size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no usable corpus ({error}); delete the folder and run again") from None
    expected = (corpus.train_tokens * corpus.token_bytes, corpus.heldout_tokens * corpus.token_bytes)
    if sizes != expected:
        raise DataError(f"{folder}: token files have {sizes} bytes, corpus.json says {expected}; delete the folder")
    return corpus


def open_tokens(path: Path, token_bytes: int) -> npt.NDArray[Any]:
    """The tokens of one file [N], memory-mapped and read-only."""
    return np.memmap(path, dtype=np.dtype("u1") if token_bytes == 1 else np.dtype("<u2"), mode="r")


def _request_of(out: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((out / CORPUS_FILE).read_bytes())["request"]
        load_corpus(out)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    return found


def _source(data: Data) -> tuple[list[_Piece], int, str]:
    """Pieces in a fixed order, bytes per token, description."""
    if data.kind == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        pieces = [_text_piece(path, root) for path in _stdlib_files(root)]
        return pieces, 1, f"source and documentation of the Python {platform.python_version()} standard library, bytes"
    if data.path is None:
        raise DataError(f"data.kind={data.kind} needs data.path, a file or a folder")
    root = Path(data.path).expanduser()
    if not root.exists():
        raise DataError(f"data.path={data.path}: no such file or folder")
    if data.kind == "text":
        files = [root] if root.is_file() else _text_files(root)
        if not files:
            raise DataError(f"data.path={data.path}: no text file ({' '.join(TEXT_SUFFIXES)}, also .gz) in this folder")
        return [_text_piece(path, root if root.is_dir() else root.parent) for path in files], 1, f"text of {root.name}"
    files = [root] if root.is_file() else sorted([*root.rglob("*.npy"), *root.rglob("*.bin")])
    if not files:
        raise DataError(f"data.path={data.path}: no token file (.npy or .bin, uint16) in this folder")
    return [_token_piece(path, root if root.is_dir() else root.parent) for path in files], 2, f"tokens of {root.name}"


def _stdlib_files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - STDLIB_SKIPPED)
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


def _text_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and _plain_suffix(path) in TEXT_SUFFIXES)


def _plain_suffix(path: Path) -> str:
    return (Path(path.stem) if path.suffix == ".gz" else path).suffix


def _text_piece(path: Path, root: Path) -> _Piece:
    def read(limit: int) -> bytes:
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                text = stream.read(limit)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise DataError(f"{path}: damaged gzip file ({error})") from None
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            # a character cut by the limit is no damage
            if error.start < len(text) - 3:
                raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it or leave it out") from None
        return text

    return _Piece(path.relative_to(root).as_posix(), read)


def _token_piece(path: Path, root: Path) -> _Piece:
    def read(limit: int) -> bytes:
        if path.suffix != ".npy":
            if path.stat().st_size % 2:
                raise DataError(f"{path}: {path.stat().st_size} bytes is no whole number of uint16 tokens")
            with path.open("rb") as stream:
                return stream.read(limit // 2 * 2)
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path}: no readable .npy file ({error})") from None
        if tokens.ndim != 1 or tokens.dtype != np.uint16:
            raise DataError(f"{path}: {tokens.dtype} array of {tokens.ndim} dimensions, expected uint16 of one")
        return np.asarray(tokens[: limit // 2], dtype="<u2").tobytes()

    return _Piece(path.relative_to(root).as_posix(), read)


def _split(pieces: list[_Piece], *, heldout_share: float, max_bytes: int, token: int) -> tuple[bytes, bytes]:
    """Train and held-out bytes, split by whole piece; a single piece is cut, its last share held out.

    A piece's side follows from its name alone, so a new file never moves an old one to the other side.
    """
    if not 0 < heldout_share < 1:
        raise DataError(f"data.heldout_share={heldout_share} leaves one side empty; use for instance 0.1")
    if len(pieces) == 1:
        text = pieces[0].read(max_bytes)
        cut = int(len(text) * (1 - heldout_share)) // token * token
        return text[:cut], text[cut:]
    ordered = sorted(pieces, key=lambda piece: _unit_interval(piece.name))
    count = sum(_unit_interval(piece.name) < heldout_share for piece in ordered)
    count = min(max(count, 1), len(ordered) - 1)
    heldout_bytes = int(max_bytes * heldout_share)
    return _join(ordered[count:], max_bytes - heldout_bytes), _join(ordered[:count], heldout_bytes)


def _join(pieces: Iterable[_Piece], limit: int) -> bytes:
    parts: list[bytes] = []
    for piece in pieces:
        if limit <= 0:
            break
        parts.append(piece.read(limit))
        limit -= len(parts[-1])
    return b"".join(parts)


def _unit_interval(name: str) -> float:
    module = name.removesuffix(".py").removesuffix("/__init__")
    return int.from_bytes(hashlib.sha256(module.encode()).digest()[:8], "big") / 2**64


def _check_sizes(train_tokens: int, heldout_tokens: int, description: str) -> None:
    for side, found, needed in (
        ("training", train_tokens, MIN_TRAIN_TOKENS),
        ("held-out", heldout_tokens, MIN_HELDOUT_TOKENS),
    ):
        if found < needed:
            raise DataError(f"{description}: {found} {side} tokens, at least {needed} needed; give more data")


def _facts(train: bytes, heldout: bytes, *, token_bytes: int, description: str) -> dict[str, Any]:
    sample = heldout[:FLOOR_SAMPLE_BYTES]
    xz_nats = len(lzma.compress(sample, preset=6)) * 8 * math.log(2) / (len(sample) // token_bytes)
    vocab = 256 if token_bytes == 1 else 1 + max(int(np.frombuffer(side, "<u2").max()) for side in (train, heldout))
    corpus = Corpus(
        train=Path(),
        heldout=Path(),
        vocab=vocab,
        train_tokens=len(train) // token_bytes,
        heldout_tokens=len(heldout) // token_bytes,
        sha256=hashlib.sha256(train + heldout).hexdigest(),
        description=description,
        token_bytes=token_bytes,
        floor_nats=FLOOR_SHARE_OF_XZ * xz_nats,
    )
    return {name: value for name, value in asdict(corpus).items() if name not in ("train", "heldout")}
