"""A model server whose answers were recorded from a real model: the same prompt gets the same one, after some time."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from pathlib import Path

from bad_server import Asked, Misbehaviour, answer, send

from arch_search.agents.recorded import RecordedReply, read_recording

RECORDED = read_recording(Path(__file__).parents[1] / "data" / "recorded_replies.jsonl")


def recorded_way(*, model: str = "m", longest_s: float = 0.0, seed: int = 0) -> Misbehaviour:
    """What the server does; the times are drawn in the order in which requests come."""
    rng = random.Random(seed)

    def act(asked: Asked) -> None:
        time.sleep(rng.uniform(0, longest_s))
        send(asked, json.dumps({**answer(recorded_text(asked)), "model": model}).encode())

    return Misbehaviour("recorded", act, "taken")


def recorded_text(asked: Asked) -> str:
    """One of the replies to a request of this form, chosen by the prompt."""
    digest = hashlib.sha256(asked.prompt.encode()).digest()
    fitting = [one.reply for one in RECORDED if _fits(one, asked)] or [asked.good]
    return fitting[int.from_bytes(digest[:8], "big") % len(fitting)]


def _fits(one: RecordedReply, asked: Asked) -> bool:
    if asked.wants_object:
        return one.role == asked.body["response_format"]["json_schema"]["name"]
    named = re.search(r"def (\w+)\(", one.reply)
    return named is not None and f"def {named[1]}(" in asked.body["messages"][-1]["content"]
