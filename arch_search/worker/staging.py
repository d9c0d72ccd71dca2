"""Stage-in: the training tokens on the disk of the node for as long as a job runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from arch_search.training.data import Corpus

# what others on the node may need of its disk meanwhile
SPARE_BYTES = 256 << 20
PREFIX = "asx-"
_PIECE_BYTES = 16 << 20


@contextmanager
def staged(
    corpus: Corpus, *, wanted: bool, should_stop: Callable[[], bool], note: Callable[[str], None]
) -> Iterator[Corpus]:
    """The corpus with its training tokens in a private folder of $SLURM_TMPDIR or $TMPDIR, removed at the end.

    The corpus as it is, where it is not wanted, outside of a job, or where the node has no room, which `note` is told.
    """
    disk = os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR")
    job = os.environ.get("SLURM_JOB_ID")
    if not (wanted and disk and job):
        yield corpus
        return
    for left in Path(disk).glob(f"{PREFIX}{job}-*"):
        # of an earlier start of this very job that was killed
        shutil.rmtree(left, ignore_errors=True)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{PREFIX}{job}-", dir=disk))
            nearest = _copied(corpus, Path(folder), should_stop)
        except OSError as error:
            stack.close()
            note(f"stage-in: the corpus is read where it is: {disk}: {error.strerror or error}")
            nearest = corpus
        yield nearest


def _copied(corpus: Corpus, folder: Path, should_stop: Callable[[], bool]) -> Corpus:
    """The corpus with a copy of its training tokens in `folder`; raises OSError where there is no room."""
    size = corpus.train_tokens * corpus.token_bytes
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise OSError(f"{free >> 20} MB free, {(size + SPARE_BYTES) >> 20} MB needed")
    copy = folder / corpus.train.name
    with corpus.train.open("rb") as source, copy.open("xb") as target:
        while not should_stop() and (piece := source.read(_PIECE_BYTES)):
            target.write(piece)
    if should_stop():
        return corpus
    if copy.stat().st_size != size:
        raise OSError(f"the copy has {copy.stat().st_size} bytes, the corpus {size}")
    return replace(corpus, train=copy)
