"""Running program text that a model wrote: rungs of isolation, limits, a watchdog outside."""

from arch_search.jail.files import read_from_jail
from arch_search.jail.python import JailedPython, jailed_python
from arch_search.jail.run import JailResult, Limits, run_jailed
from arch_search.jail.rungs import best_rung

__all__ = ["JailResult", "JailedPython", "Limits", "best_rung", "jailed_python", "read_from_jail", "run_jailed"]
