"""Recordings: the answered calls of a campaign as one JSONL file for `llm.kind=recorded`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from arch_search.agents.call_log import CallLog
from arch_search.agents.recorded import RecordedReply
from arch_search.paths import CampaignPaths
from cognition_db.experience.files import write_atomic
from cognition_db.records import canonical_json, to_json


def record(calls: CallLog, out: Path) -> int:
    """Write one line per call whose text is still there, ordered by key; returns how many."""
    lines = []
    for call in sorted(calls.calls(), key=lambda call: call.key):
        text = calls.text(call.reply_sha256)
        if text is not None and not call.refused:
            reply = RecordedReply(
                role=call.role,
                reply=text,
                rung=call.hints.get("rung", ""),
                method=call.hints.get("method", ""),
                model=call.model,
                finished=call.finished,
                prompt_tokens=call.prompt_tokens,
                reply_tokens=call.reply_tokens,
                seconds=call.seconds,
            )
            lines.append(canonical_json(to_json(reply)) + "\n")
    write_atomic(out, "".join(lines).encode("utf-8"))
    return len(lines)


def main(arguments: Sequence[str]) -> int:
    """`python -m arch_search.agents.recording CAMPAIGN_DIR OUT.jsonl`"""
    if len(arguments) != 2:
        print(main.__doc__, file=sys.stderr)
        return 2
    paths = CampaignPaths(Path(arguments[0]))
    print(f"{record(CallLog(paths.calls, paths.text), Path(arguments[1]))} replies in {arguments[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
