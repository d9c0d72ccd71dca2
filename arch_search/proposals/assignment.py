"""What a writer is asked, what it is shown and what comes back: Assignment, WritingTask, Draft."""

from __future__ import annotations

from dataclasses import dataclass, field

from arch_search.proposals.registry import BUILT_IN, Toolbox
from cognition_db.records import Candidate, Insight, Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What the framework drew for one try at one slot: the writer does not choose the place of the change."""

    rung: Rung
    parent: Candidate
    method: str = ""  # hook or method to rewrite; empty for the rungs that write a whole program
    insight: Insight | None = None
    plan: str = ""  # what the Planner made of it, or an idea by hand; the writer follows it instead of the insight
    learned: str = ""  # what was learned so far in the parent's lineage, in two sentences; for the free rungs
    references: tuple[Candidate, ...] = ()
    class_name: str = ""  # that a whole program is asked for; empty: the parent's
    toolbox: Toolbox = BUILT_IN  # what it may use; the control has no history and so nothing that grew
    tried: tuple[str, ...] = ()  # what was already tried at this place and what came of it, a line each


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A piece of a prompt that is shown whole, in its shorter form, or not at all; never cut.

    `name` says in the call log what was left out; of two sections the one of lower `priority` is placed first.
    """

    name: str
    text: str
    instead: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingTask:
    """An assignment in the form the model sees it.

    `template` names agents/prompts/<template>.md, which is filled with `facts` and says which of them are data.
    `examples` are earlier turns: what the same question was filled with, and the answer.
    """

    rung: Rung
    template: str
    facts: dict[str, str | tuple[Section, ...]]
    examples: tuple[tuple[dict[str, str], str], ...] = ()
    grammar: str | None = None  # GBNF in the xgrammar dialect; None: free text
    max_tokens: int = 256
    hints: dict[str, str] = field(default_factory=dict)  # rung and method, for the call log and recordings


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A readable, self-contained program made from a reply, not yet checked by admission."""

    program: str
    class_name: str
    motivation: str  # derived from the difference to the parent, never the writer's own story
    method: str = ""
