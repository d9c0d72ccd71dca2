"""Only `logging`, as transformers has it: loggers that can say a thing once."""

from __future__ import annotations

import functools
import logging as _logging
from typing import Any


class _Logger(_logging.LoggerAdapter[_logging.Logger]):
    @functools.lru_cache(None)  # noqa: B019
    def warning_once(self, message: str, *arguments: Any) -> None:
        self.warning(message, *arguments)


class logging:
    """The module `transformers.utils.logging`, as far as layers use it."""

    @staticmethod
    def get_logger(name: str | None = None) -> _Logger:
        return _Logger(_logging.getLogger(name), {})
