"""Embeddings over HTTP without a model: each word counts in the direction that its hash names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from bad_server import Asked, Misbehaviour, send

WIDTH = 96


def vector(text: str) -> np.ndarray:
    found = np.zeros(WIDTH, dtype="<f4")
    for word in re.findall(r"[a-z]+", text.lower()):
        found[hashlib.sha256(word.encode()).digest()[0] % WIDTH] += 1
    return found


def embedding_way(
    *, model: str = "words", as_numbers: bool = False, change: Callable[[dict[str, Any]], Any] | None = None
) -> Misbehaviour:
    """Answers with the vectors of the texts, after `change` has had its way with the whole answer."""

    def act(asked: Asked) -> None:
        vectors = [vector(text) for text in asked.body["input"]]
        data = [
            {"index": index, "embedding": one.tolist() if as_numbers else base64.b64encode(one.tobytes()).decode()}
            for index, one in enumerate(vectors)
        ]
        whole = {"model": model, "data": data[::-1], "usage": {"prompt_tokens": len(data)}}
        if change is not None:
            change(whole)
        send(asked, json.dumps(whole).encode())

    return Misbehaviour("embeddings", act, "taken")
