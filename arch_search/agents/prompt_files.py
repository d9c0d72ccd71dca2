"""Prompt files: Markdown with a head that says which version it is, whose prompt, and what that role may see.

    ---
    version: 3
    role: judge
    facts: outcome
    data: program 6000, motivation 600
    ---
    the system message, the same for every call
    ===
    the question

`facts` are words of ours; every prompt is given those of the domain as well (PROMPT_WORDS). `data` is what a program
or a model wrote, with the most characters that are shown of it; it is fenced wherever it stands. A prompt without the
line === is a later turn of a conversation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template, TemplateError, meta

from arch_search.domains import PROMPT_WORDS
from arch_search.errors import ConfigError
from cognition_db.records import sha256_text

_DIVIDER = "==="
_HEAD = re.compile(r"\A---\n(?P<head>.*?)\n---\n", re.DOTALL)
_KEYS = ("version", "role", "facts", "data")
_DATUM = re.compile(r"(?P<name>[a-z_]+) (?P<longest>[1-9][0-9]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFile:
    """One prompt. `label` names its version in the call log; `system` is empty for a later turn."""

    name: str
    version: int
    role: str
    facts: tuple[str, ...]
    data: dict[str, int]  # fact: most characters of it
    system: str
    question: str
    label: str

    @property
    def has_system(self) -> bool:
        return bool(self.system)


def names() -> tuple[str, ...]:
    """All prompts of this package."""
    return tuple(sorted(file.name.removesuffix(".md") for file in _folder().iterdir() if file.name.endswith(".md")))


@cache
def shipped(name: str) -> PromptFile:
    """The prompt as it comes with this package; ConfigError where there is none of that name."""
    if name not in names():
        raise ConfigError(f"there is no prompt {name}; there are {', '.join(names())}")
    return _parsed(name, (_folder() / f"{name}.md").read_text(encoding="utf-8"))


def current(name: str, folder: Path | None) -> PromptFile:
    """The prompt of a campaign: its own file in `folder`, where it has one, or else the shipped one.

    Raises:
        ConfigError: its own file does not do, see `changed`.
    """
    file = folder / f"{name}.md" if folder is not None else None
    if file is None or not file.exists():
        return shipped(name)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    return changed(name, text)


def changed(name: str, text: str) -> PromptFile:
    """A campaign's own wording of the shipped prompt `name`: with or without the head, which must say the same.

    Raises:
        ConfigError: no such prompt, another head, a missing or second divider, a fact that is not given to it, data
            in the system message, or no template at all.
    """
    original = shipped(name)
    text = text.replace("\r\n", "\n")
    if not _HEAD.match(text):
        text = f"{_head_of(original)}{text}"
    mine = _parsed(name, text, label=f"{name}@{original.version}+{sha256_text(text)[:8]}")
    for key in ("role", "facts", "data"):
        if getattr(mine, key) != getattr(original, key):
            raise ConfigError(f"prompts/{name}.md: its head changes {key}; keep the head of the shipped prompt")
    if mine.has_system != original.has_system:
        wanted = "needs one" if original.has_system else "must have no"
        raise ConfigError(f"prompts/{name}.md {wanted} line {_DIVIDER} between system message and question")
    return mine


def require_rendering(name: str, text: str) -> None:
    """ConfigError where a campaign's own wording does not do, or cannot be filled in with what it is given."""
    prompt = changed(name, text)
    for part in (prompt.system, prompt.question):
        # with and without each fact: a condition may hide a mistake
        for value in ("text", ""):
            try:
                template(part).render(dict.fromkeys((*prompt.facts, *prompt.data, *PROMPT_WORDS), value))
            except Exception as error:  # a template may raise anything that an expression can
                raise ConfigError(f"prompts/{name}.md cannot be filled in: {error}") from None


@cache
def template(source: str) -> Template:
    return _environment().from_string(source)


def _parsed(name: str, text: str, *, label: str = "") -> PromptFile:
    where = f"prompts/{name}.md"
    match = _HEAD.match(text)
    head = dict(_pair(line, where) for line in match["head"].split("\n")) if match else {}
    if match is None or tuple(head) != _KEYS or not head["version"].isdecimal():
        raise ConfigError(f"{where} must begin with a head of the lines {', '.join(_KEYS)} between two lines ---")
    parts = f"\n{text[match.end() :]}".split(f"\n{_DIVIDER}\n")
    if len(parts) > 2:
        raise ConfigError(f"{where} has {len(parts) - 1} lines {_DIVIDER}; one divides system message and question")
    prompt = PromptFile(
        name=name,
        version=int(head["version"]),
        role=head["role"],
        facts=tuple(filter(None, head["facts"].split(", "))),
        data=dict(_datum(one, where) for one in filter(None, head["data"].split(", "))),
        system=parts[0].strip() if len(parts) == 2 else "",
        question=parts[-1].strip(),
        label=label or f"{name}@{head['version']}",
    )
    _require_known(prompt, where)
    return prompt


def _require_known(prompt: PromptFile, where: str) -> None:
    allowed = {*prompt.facts, *prompt.data, *PROMPT_WORDS}
    for part, may_name in ((prompt.system, allowed - {*prompt.data}), (prompt.question, allowed)):
        try:
            named = meta.find_undeclared_variables(_environment().parse(part))
        except TemplateError as error:
            raise ConfigError(f"{where} is no template: {error}") from None
        unknown, below = ", ".join(sorted(named - allowed)), ", ".join(sorted(named - may_name))
        if unknown:
            raise ConfigError(
                f"{where} names {unknown}, which it is not given; it is given {', '.join(sorted(allowed))}"
            )
        if below:
            raise ConfigError(f"{where} shows {below} in its system message; data go below the line {_DIVIDER}")


def _pair(line: str, where: str) -> tuple[str, str]:
    key, colon, value = line.partition(":")
    if not colon:
        raise ConfigError(f"{where}: {line!r} in its head is not key: value")
    return key, value.strip()


def _datum(text: str, where: str) -> tuple[str, int]:
    match = _DATUM.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: data {text!r} is not a name and the most characters of it, as program 6000")
    return match["name"], int(match["longest"])


def _head_of(prompt: PromptFile) -> str:
    data = ", ".join(f"{name} {longest}" for name, longest in prompt.data.items())
    lines = (f"version: {prompt.version}", f"role: {prompt.role}", f"facts: {', '.join(prompt.facts)}", f"data: {data}")
    return "---\n" + "\n".join(lines) + "\n---\n"


def _folder() -> resources.abc.Traversable:
    return resources.files("arch_search.agents") / "prompts"


@cache
def _environment() -> Environment:
    # the prompts go to a language model, not to a browser: nothing is escaped
    return Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
