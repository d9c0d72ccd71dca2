"""Messages: Markdown templates of agents/prompts, filled in strictly and split into system and user message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

_DIVIDER = "==="


def messages_of(
    template: str, facts: Mapping[str, object], examples: Sequence[tuple[str, str]] = ()
) -> tuple[dict[str, str], ...]:
    """The chat of one call: system message, earlier (user, assistant) turns, the question.

    The line `===` in the template stands between system message and question. The system message comes first and is
    the same for every call of a role, so that the server's prefix cache holds it.

    Raises:
        jinja2.TemplateError: the template is missing or names a fact that is not given (our bug).
    """
    system, divider, question = _template(template).render(facts).partition(f"\n{_DIVIDER}\n")
    if not divider:
        raise ValueError(f"prompts/{template}.md has no line {_DIVIDER} between system message and question")
    turns = [{"role": "system", "content": system.strip()}]
    for asked, answered in examples:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return (*turns, {"role": "user", "content": question.strip()})


def text_of(template: str, facts: Mapping[str, object]) -> str:
    """One later turn of a conversation, from a template without a divider."""
    return _template(template).render(facts).strip()


@cache
def _template(name: str) -> Template:
    return _environment().get_template(f"{name}.md")


@cache
def _environment() -> Environment:
    # the prompts go to a language model, not to a browser: nothing is escaped
    return Environment(
        loader=PackageLoader("arch_search.agents", "prompts"), undefined=StrictUndefined, keep_trailing_newline=True
    )
