"""What a researcher had a part in: said beside every result that it may have changed."""

from __future__ import annotations

from collections import Counter

from arch_search.analysis.text import count, short
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate

_MOST_REQUESTS = 12  # in one sentence; the rest is counted


def steered_by_hand(contents: ArchiveContents) -> str:
    """One sentence on all requests that had a part in tries, with how many of them; empty where there were none."""
    parts = Counter(part for one in contents.tries if one.proposal.writing for part in one.proposal.writing.steering)
    if not parts:
        return ""
    tries = sum(bool(one.proposal.writing and one.proposal.writing.steering) for one in contents.tries)
    said = [f"{short(part, 80)} in {many}" for part, many in list(parts.items())[:_MOST_REQUESTS]]
    more = f"; and {len(parts) - _MOST_REQUESTS} more" if len(parts) > _MOST_REQUESTS else ""
    return (
        f"Steered by hand: requests of a researcher had a part in {count(tries, 'proposal')} ({'; '.join(said)}{more})."
    )


def writing_of(contents: ArchiveContents, candidate: Candidate) -> list[str]:
    """How the program came to be written, line by line: the idea, where it comes from, who steered."""
    tried = next((one for one in contents.tries if one.candidate and one.candidate.id == candidate.id), None)
    writing = tried.proposal.writing if tried else None
    if writing is None:
        return []
    sources = f" ({', '.join(writing.sources)})" if writing.sources else ""
    lines = [f"idea, from {writing.origin or 'where was not said'}{sources}: {writing.idea}"] if writing.idea else []
    if writing.unfounded:
        lines.append(f"named as a source, but not in the prompt: {', '.join(writing.unfounded)}")
    return [short(line, 400) for line in (*lines, *(f"steered by hand: {part}" for part in writing.steering))]
