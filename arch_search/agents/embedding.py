"""Nearness of texts by the embeddings of a model, over the embeddings form of OpenAI-compatible servers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from arch_search.config import EMBEDDING, Sampling
from arch_search.errors import ModelServerError, ReplyError
from arch_search.protocols import ModelClient, ModelRequest
from cognition_db.literature import symptom
from cognition_db.records import Insight, canonical_json, sha256_text

_Vectors = NDArray[np.float32]
_BATCH = 64  # texts a request
# characters of a text: models that embed sentences read 256 to 512 tokens, and servers refuse what is longer
_LENGTHS = (1200, 600, 300)
_UNUSED = Sampling(temperature=0.0, top_p=1.0, max_tokens=1)


class _Item(BaseModel):
    index: int = 0
    embedding: str | list[float]


class EmbeddingAnswer(BaseModel):
    """What is read of an answer; older servers send numbers where base64 was asked for."""

    NAME: ClassVar[str] = "list of embeddings"
    model: str = ""
    data: list[_Item]
    usage: Any = None

    def content(self, count: int) -> tuple[str, bool]:
        """The vectors in the order of the texts, as a reply keeps them; ValueError where they are not `count`."""
        items = sorted(self.data, key=lambda one: one.index)
        if [one.index for one in items] != list(range(count)):
            raise ValueError("not one vector for each text")
        vectors = [one.embedding if isinstance(one.embedding, str) else _packed(one.embedding) for one in items]
        text = canonical_json(vectors)
        _unpacked(text)
        return text, True


def embedding_arguments(model: str, request: ModelRequest) -> dict[str, Any]:
    """What the openai library is told of a request that embeds."""
    texts = [message["content"] for message in request.messages]
    return {"model": model, "input": texts, "encoding_format": "base64"}


class Nearness:
    """How near insights are to what was observed: cosines of their embeddings, -1 to 1, by insight id.

    Every text is asked for once in a campaign: its call is named by its hash, and the call log has the answer.
    """

    def __init__(self, client: Callable[[], ModelClient]) -> None:
        self._client = client

    def __call__(self, observed: str, insights: Sequence[Insight]) -> dict[str, float]:
        """Raises ModelServerError where the server gives no vectors, or those of another model than before."""
        (query,), model = self._embedded([observed])
        found: dict[str, float] = {}
        for start in range(0, len(insights), _BATCH):
            part = insights[start : start + _BATCH]
            vectors, its_model = self._embedded([symptom(one) for one in part])
            if its_model != model or vectors.shape[1] != query.size:
                raise ModelServerError(
                    f"llm.roles.{EMBEDDING}: {model} ({query.size} numbers a text) answers now, the literature was "
                    f"embedded by {its_model} ({vectors.shape[1]}) in this campaign; serve that one again"
                )
            found |= {one.id: float(vector @ query) for one, vector in zip(part, vectors, strict=True)}
        return found

    def _embedded(self, texts: Sequence[str]) -> tuple[_Vectors, str]:
        """Unit vectors [texts, width], and the model that made them."""
        refusal = ""
        for length in _LENGTHS:
            try:
                reply = self._client().complete(_request([text[:length] for text in texts]))
            except ReplyError as error:
                refusal = str(error)
                continue
            vectors = _unpacked(reply.text)
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), reply.model
        raise ModelServerError(f"{refusal}; texts of {_LENGTHS[-1]} characters are the shortest that are tried")


def _request(texts: Sequence[str]) -> ModelRequest:
    return ModelRequest(
        key=f"{EMBEDDING}/{sha256_text(canonical_json(texts))[:16]}",
        role=EMBEDDING,
        messages=tuple({"role": "user", "content": text} for text in texts),
        sampling=_UNUSED,
        embeds=True,
    )


def _packed(numbers: Sequence[float]) -> str:
    return base64.b64encode(np.asarray(numbers, dtype="<f4").tobytes()).decode("ascii")


def _unpacked(text: str) -> _Vectors:
    """The vectors [texts, width] of a reply; ValueError where one is empty, of another width, zero or not finite."""
    rows = [np.frombuffer(base64.b64decode(one, validate=True), dtype="<f4") for one in json.loads(text)]
    vectors = np.stack(rows).astype(np.float32)
    if not vectors.size or not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise ValueError("a vector that points nowhere")
    return vectors
