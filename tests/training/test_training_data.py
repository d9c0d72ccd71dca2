"""Corpora from the standard library, from text and from tokens; bad input in one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from arch_search.config import Data
from arch_search.errors import DataError
from arch_search.training.data import load_corpus, open_tokens, prepare

WORDS = b"It was the best of times, it was the worst of times, it was the age of wisdom.\n"


def settings(kind: str = "text", path: Path | None = None, share: float = 0.2, max_bytes: int = 1_000_000) -> Data:
    return Data(kind=kind, path=None if path is None else str(path), heldout_share=share, max_bytes=max_bytes)


def text_folder(root: Path, count: int = 12) -> Path:
    root.mkdir(exist_ok=True)
    for number in range(count):
        path = root / f"chapter-{number}.txt"
        path.write_bytes(WORDS.replace(b"times", b"times %d" % number) * 80)
    return root


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stdlib")
    prepare(settings("stdlib", share=0.1, max_bytes=400_000), out)
    return out


def test_standard_library_gives_python_source_on_both_sides_within_the_cap(stdlib: Path) -> None:
    corpus = load_corpus(stdlib)
    assert corpus.vocab == 256
    assert corpus.heldout_tokens == 40_000
    assert corpus.train_tokens == 360_000
    assert b"def " in corpus.train.read_bytes()
    assert b"import " in corpus.heldout.read_bytes()


def test_standard_library_corpus_is_the_same_each_time(stdlib: Path, tmp_path: Path) -> None:
    again = prepare(settings("stdlib", share=0.1, max_bytes=400_000), tmp_path)
    assert again.sha256 == load_corpus(stdlib).sha256


def test_a_file_is_never_on_both_sides(tmp_path: Path) -> None:
    corpus = prepare(settings(path=text_folder(tmp_path / "in")), tmp_path / "out")
    train, heldout = corpus.train.read_bytes(), corpus.heldout.read_bytes()
    for number in range(12):
        mark = b"times %d," % number
        assert (mark in train) != (mark in heldout)


def test_a_new_file_leaves_every_other_on_its_side(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "in", count=12)
    before = prepare(settings(path=folder), tmp_path / "a").heldout.read_bytes()
    text_folder(tmp_path / "in", count=20)
    after = prepare(settings(path=folder), tmp_path / "b").heldout.read_bytes()
    assert all((b"times %d," % n in before) == (b"times %d," % n in after) for n in range(12))


def test_one_file_gives_its_last_share_as_held_out(tmp_path: Path) -> None:
    path = tmp_path / "novel.md"
    path.write_bytes(WORDS * 200)
    corpus = prepare(settings(path=path), tmp_path / "out")
    assert corpus.heldout_tokens == pytest.approx(0.2 * len(WORDS) * 200, abs=1)
    assert corpus.train.read_bytes() + corpus.heldout.read_bytes() == WORDS * 200


def test_gzip_text_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt.gz"
    path.write_bytes(gzip.compress(WORDS * 200))
    assert prepare(settings(path=path), tmp_path / "out").train.read_bytes().startswith(WORDS)


@pytest.mark.parametrize("suffix", [".npy", ".bin"])
def test_token_files_keep_their_numbers(tmp_path: Path, suffix: str) -> None:
    tokens = (np.arange(20_000) % 3000).astype(np.uint16)
    path = tmp_path / f"tokens{suffix}"
    np.save(path, tokens) if suffix == ".npy" else path.write_bytes(tokens.tobytes())
    corpus = prepare(settings("tokens", path), tmp_path / "out")
    assert corpus.vocab == 3000
    assert (open_tokens(corpus.train, corpus.token_bytes)[:100] == tokens[:100]).all()


def test_a_second_call_reads_what_the_first_made(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    path.write_bytes(WORDS * 200)
    first = prepare(settings(path=path), tmp_path / "out")
    path.unlink()
    assert prepare(settings(path=path), tmp_path / "out") == first


def test_other_settings_make_the_corpus_anew(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    path.write_bytes(WORDS * 200)
    first = prepare(settings(path=path), tmp_path / "out")
    assert prepare(settings(path=path, share=0.4), tmp_path / "out").heldout_tokens > first.heldout_tokens


def test_the_loss_floor_lies_below_what_a_compressor_needs(stdlib: Path) -> None:
    assert 0.1 < load_corpus(stdlib).floor_nats < 0.6


def test_a_cut_token_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    path.write_bytes(WORDS * 200)
    corpus = prepare(settings(path=path), tmp_path / "out")
    corpus.train.write_bytes(corpus.train.read_bytes()[:-1])
    with pytest.raises(DataError, match="token files have"):
        load_corpus(tmp_path / "out")


def write_bad_input(root: Path, which: str) -> Data:
    path = root / "input.txt"
    if which == "missing":
        return settings(path=root / "nowhere")
    if which == "latin-1":
        path.write_bytes(WORDS * 100 + "caf\xe9".encode("latin-1") + WORDS * 100)
    elif which == "too small":
        path.write_bytes(WORDS)
    elif which == "damaged gzip":
        path = root / "input.txt.gz"
        path.write_bytes(gzip.compress(WORDS * 200)[:-20])
    elif which == "no text in folder":
        (root / "picture.png").write_bytes(b"")
        path = root
    elif which == "float tokens":
        path = root / "input.npy"
        np.save(path, np.zeros(9000, dtype=np.float32))
        return settings("tokens", path)
    elif which == "pickle":
        path = root / "input.npy"
        np.save(path, np.array([{}]), allow_pickle=True)
        return settings("tokens", path)
    elif which == "no path":
        return settings()
    elif which == "no held-out share":
        path.write_bytes(WORDS * 200)
        return settings(path=path, share=0.0)
    return settings(path=path)


@pytest.mark.parametrize(
    "which, words",
    [
        ("missing", "no such file"),
        ("latin-1", "not UTF-8 at byte"),
        ("too small", "training tokens"),
        ("damaged gzip", "damaged gzip"),
        ("no text in folder", "no text file"),
        ("float tokens", "expected uint16"),
        ("pickle", "no readable .npy"),
        ("no path", "needs data.path"),
        ("no held-out share", "leaves one side empty"),
    ],
)
def test_unusable_input_is_named_in_one_line(tmp_path: Path, which: str, words: str) -> None:
    data = write_bad_input(tmp_path, which)
    with pytest.raises(DataError, match=words) as caught:
        prepare(data, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "corpus.json").exists()
