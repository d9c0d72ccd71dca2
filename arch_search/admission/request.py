"""What the runner asks of the checking child and what the child answers: two small JSON files in its folder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from arch_search.config import Admission, Stage
from arch_search.contract import Contract
from cognition_db.records import Verdict

REQUEST_FILE = "request.json"
REPORT_FILE = "report.json"
PROGRAM_FILE = "program.py"
MAX_REPORT_BYTES = 200_000
FINGERPRINT_LENGTH = 64
# byte-level text; a corpus of tokens says its own
BYTE_VOCAB = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One program to check; its text lies beside the request."""

    class_name: str | None
    contract: Contract
    settings: Admission
    stage: Stage
    target_parameters: int | None
    exempt_cost: bool
    vocab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildReport:
    """Written anew before every check, so that `doing` names the one that ended the child."""

    complete: bool
    doing: str
    verdicts: tuple[Verdict, ...]
    class_name: str = ""
    parameter_count: int = 0
    fingerprint: tuple[float, ...] = ()

    def printable(self) -> ChildReport:
        """The same without anything that could move a terminal's cursor: a program can write its own report."""
        verdicts = tuple(
            replace(one, check=printable(one.check), reason=printable(one.reason)) for one in self.verdicts
        )
        return replace(self, doing=printable(self.doing), class_name=printable(self.class_name), verdicts=verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceRequest:
    """Functions of one program to watch at work, each by place, the argument that matters and its text by layout.

    `calls` are calls of every known primitive on a vector v, `grown` the functions that not all programs have.
    """

    class_name: str
    default_class: str
    d_model: int
    n_heads: int
    places: tuple[str, ...]
    arguments: tuple[str, ...]
    sources: tuple[dict[str, str], ...]
    calls: tuple[str, ...]
    grown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceSeen:
    """`layout` is empty where the function did not turn a tensor of tokens into another of the same layout."""

    layout: str = ""
    reads_past: bool = False
    nearest: str = ""  # the call of a known primitive that is most like it
    distance: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceReport:
    """One answer per place of the request."""

    seen: tuple[PieceSeen, ...]


def printable(text: str) -> str:
    """Escapes what could move a terminal's cursor or turn its text."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)
