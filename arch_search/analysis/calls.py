"""The calls of the language model behind a candidate or a slot, as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from arch_search.agents.call_log import Call
from arch_search.analysis.text import short
from arch_search.clean_text import clean, one_line
from cognition_db.records import SlotTry

_INDENT = "    "  # of all that a model or a prompt says: at the margin stand only words of ours


def slot_text(tries: Sequence[SlotTry]) -> str:
    """The tries at one slot in their order, each with what it came to and the verdicts that decided it."""
    lines = []
    for one in tries:
        proposal = one.proposal
        came_to = f"admitted as {one.candidate.id}" if one.candidate else "refused"
        place = f"generation {proposal.generation}, slot {proposal.slot}, try {proposal.attempt}"
        what = f"{proposal.arm}, {proposal.rung.replace('_', ' ')} {one_line(proposal.method)}".rstrip()
        lines.append(f"{place}: {what}: {came_to}")
        if proposal.motivation:
            lines.append(f"{_INDENT}{short(proposal.motivation, 120)}")
        if proposal.repairs:
            lines.append(f"{_INDENT}repairs: {proposal.repairs}")
        lines += [
            f"{_INDENT}{verdict.outcome:8} {one_line(verdict.check)}: {short(verdict.reason, 120)}"
            for verdict in one.verdicts
            if verdict.refuses or verdict.outcome != "passed"
        ]
    return "\n".join(lines) + "\n"


def keys_of(tries: Sequence[SlotTry], calls: Sequence[Call]) -> tuple[str, ...]:
    """Keys of all calls that led to the tries and to the lessons on their candidates, in the order of the calls.

    Records older than schema 3 do not name their calls: there it is all calls of the slot.
    """
    keys: dict[str, None] = {}
    for one in tries:
        place = f"g{one.proposal.generation:04d}"
        named = one.proposal.writing.calls if one.proposal.writing else ()
        keys |= dict.fromkeys(named or _starting_with(f"{place}/s{one.proposal.slot:03d}/", calls))
        if one.candidate:
            keys |= dict.fromkeys(_starting_with(f"{place}/{one.candidate.id}/", calls))
    return tuple(keys)


def calls_text(keys: Sequence[str], calls: Sequence[Call], text_of: Callable[[str], str | None]) -> str:
    """Each call with its prompt, turn by turn, and its reply. Control characters cannot reach the terminal."""
    by_key = {call.key: call for call in calls}
    if not keys:
        return "no model was asked\n"
    return "\n".join(
        _call(by_key[key], text_of) if key in by_key else f"call {one_line(key)}: not in the call log\n" for key in keys
    )


def _starting_with(prefix: str, calls: Sequence[Call]) -> list[str]:
    return [call.key for call in calls if call.key.startswith(prefix)]


def _call(call: Call, text_of: Callable[[str], str | None]) -> str:
    cut = "" if call.finished or call.refused else "; cut by its limit"
    head = (
        f"call {one_line(call.key)}: {one_line(call.role)} by {short(call.model, 60)}, {call.prompt_tokens} tokens "
        f"of prompt, {call.reply_tokens} of reply, {call.seconds:.1f} s{cut}"
    )
    lines = [head, *_prompt(call.prompt_sha256, text_of(call.prompt_sha256))]
    if call.refused:
        return "\n".join([*lines, "refused by the server", *_indented(call.refused)]) + "\n"
    reply = text_of(call.reply_sha256)
    lines += _lost("reply", call.reply_sha256) if reply is None else ["reply", *_indented(reply)]
    return "\n".join(lines) + "\n"


def _prompt(sha256: str, text: str | None) -> Iterator[str]:
    if text is None:
        yield from _lost("prompt", sha256)
        return
    try:
        asked: dict[str, Any] = json.loads(text)
        turns = [(str(turn["role"]), str(turn["content"])) for turn in asked["messages"]]
    except (ValueError, TypeError, KeyError):
        yield from ["prompt, in a form that this version does not know", *_indented(text)]
        return
    forms = [f"{name} of {len(str(asked[name]))} characters" for name in ("grammar", "json_schema") if asked.get(name)]
    held = f"; the reply is held to a {' and a '.join(forms)}" if forms else ""
    settings = ", ".join(f"{name} {value}" for name, value in sorted((asked.get("sampling") or {}).items()))
    yield one_line(f"sampling: {settings}{held}")
    for role, content in turns:
        yield f"prompt, {one_line(role)}"
        yield from _indented(content)


def _lost(what: str, sha256: str) -> list[str]:
    return [f"{what}: its text is missing or damaged (sha256 {one_line(sha256)})"]


def _indented(text: str) -> Iterator[str]:
    return (f"{_INDENT}{line}".rstrip() for line in clean(text).splitlines())
