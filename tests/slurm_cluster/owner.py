"""Who owns a test cluster; see tests/owner.py."""

from __future__ import annotations

from tests.owner import (
    REPOSITORY,
    USER_PREFIX,
    Owner,
    can_run,
    choose_owner,
    package_folders,
    python_version,
    system_python,
    usable_python,
)

__all__ = [
    "REPOSITORY",
    "USER_PREFIX",
    "Owner",
    "can_run",
    "choose_owner",
    "package_folders",
    "python_version",
    "system_python",
    "usable_python",
]
