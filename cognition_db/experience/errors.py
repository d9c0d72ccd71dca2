"""The exception tree of cognition_db; each message is one line that names the file."""

from __future__ import annotations


class StoreError(Exception):
    """Root of everything cognition_db raises on purpose."""


class NoSpaceError(StoreError):
    """The file system or the quota is full; the same command works again once there is room."""


class JournalError(StoreError):
    """A journal is damaged before its last line, or another process writes it."""


class ShardError(StoreError):
    """A shard can't be read, has another schema, or holds records that do not match their digests."""


class ArchiveError(StoreError):
    """An archive can't be read, has another schema, or its records contradict each other."""


class InsightError(StoreError):
    """An insight of the literature is malformed."""
