"""Seals: which records were written by a program that knows the secret of their campaign.

A program in the jail cannot read the secret, and the records of another campaign bear other seals. Who may read the
campaign's folder as its owner does can make seals: they are no defence against the owner.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import write_atomic
from cognition_db.records import canonical_json, sha256_text

_SECRET_BYTES = 32
_SECRET = re.compile(f"[0-9a-f]{{{2 * _SECRET_BYTES}}}")


def make_secret(path: Path, *, like: Path | None) -> str:
    """Keep a fresh secret of 64 hex digits, or that of the file `like`, where only the user may read it; its sha256.

    Raises:
        StoreError: `like` can't be read or holds no secret.
    """
    secret = _read(like) if like else secrets.token_hex(_SECRET_BYTES)
    if not _SECRET.fullmatch(secret):
        raise StoreError(f"{like}: holds no secret, which is 64 hex digits; give the file driver/secret of a campaign")
    write_atomic(path, secret.encode(), mode=0o600)
    return sha256_text(secret)


def read_secret(path: Path, *, sha256: str) -> str:
    """The secret with this hash; empty for a campaign older than secrets, which has no hash.

    Raises:
        StoreError: missing, not readable, or another one.
    """
    if not sha256:
        return ""
    secret = _read(path)
    if sha256_text(secret) != sha256:
        raise StoreError(f"{path}: not the secret that the campaign was started with; put that one back")
    return secret


def seal(secret: str, *parts: str) -> str:
    """HMAC-SHA256 (RFC 2104) of the parts under the secret, in hex."""
    return hmac.new(bytes.fromhex(secret), canonical_json(parts).encode(), hashlib.sha256).hexdigest()


def is_seal(found: str, expected: str) -> bool:
    """Compared in a time that does not tell how much of it is right; `found` may be any text."""
    return hmac.compare_digest(found.encode("utf-8", "replace"), expected.encode())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise StoreError(f"{path}: the secret of a campaign can't be read: {error.strerror}; put it back") from error
    except ValueError as error:
        raise StoreError(f"{path}: not the text of a secret; put it back") from error
