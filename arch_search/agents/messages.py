"""Messages: prompt files filled in strictly, with all that is data inside a fence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arch_search.agents import prompt_files
from arch_search.agents.fence import fenced, nonce_of
from arch_search.agents.packing import packed, tokens_of
from arch_search.agents.prompt_files import PromptFile
from arch_search.config import Sampling
from arch_search.domains import Domain
from arch_search.proposals.assignment import Section
from arch_search.protocols import ModelRequest

Words = Mapping[str, str]
Facts = Mapping[str, str | Sequence[Section]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The prompts of one campaign in the words of its domain, its own wordings before the shipped ones.

    The same arguments give the same text, at any time and on any machine: a campaign can be replayed.
    `context_tokens` is what the model takes in at once, prompt and reply together; None: nothing is known of it.
    """

    seed: int
    domain: Domain
    folder: Path | None = None
    context_tokens: int | None = None

    def with_room_for(self, *turns: str) -> Prompts:
        """The same for the beginning of a conversation in which these turns are to follow."""
        if self.context_tokens is None:
            return self
        return replace(self, context_tokens=self.context_tokens - tokens_of(*turns))

    def request(
        self,
        name: str,
        facts: Facts,
        *,
        key: str,
        sampling: Sampling,
        examples: Sequence[tuple[Words, str]] = (),
    ) -> ModelRequest:
        """The call `key` with prompt `name`: system message, worked examples as earlier turns, the question.

        The system message comes first and is the same for every call of a prompt, so that the server's prefix cache
        holds it. Examples are ours: they are asked in the words of the question and are not fenced. Of a fact that is
        a list of sections those are shown that fit the model; the hints of the request say which are left out.

        Raises:
            ConfigError: the campaign's own wording of the prompt does not do.
            ValueError: the facts are not those that the prompt declares (our bug).
        """
        prompt = prompt_files.current(name, self.folder)
        sections = {fact: value for fact, value in facts.items() if not isinstance(value, str)}
        plain = {fact: value if isinstance(value, str) else "" for fact, value in facts.items()}
        turns, hints = self._turns(prompt, plain, examples, key), {}
        if sections:
            # a fence is there only around something, so that the turns above have none for the sections
            fences = [fenced("-", nonce=nonce_of(self.seed, key), longest=1) for _ in sections]
            taken = sampling.max_tokens + tokens_of(*(turn["content"] for turn in turns), *fences)
            room = float("inf") if self.context_tokens is None else self.context_tokens - taken
            fitted = packed(sections, room_tokens=room, longest=prompt.data)
            turns = self._turns(prompt, {**plain, **fitted.texts}, examples, key)
            missing = {"left_out": fitted.left_out, "shortened": fitted.shortened}
            hints = {word: ", ".join(names) for word, names in missing.items() if names}
        return ModelRequest(
            key=key, role=prompt.role, messages=turns, sampling=sampling, hints=hints, prompt=prompt.label
        )

    def turn(self, name: str, facts: Words, *, key: str) -> tuple[str, str]:
        """One later turn of a conversation, and the label of its prompt; raises as `request` does."""
        prompt = prompt_files.current(name, self.folder)
        return self._question(prompt, facts, key), prompt.label

    def _turns(
        self, prompt: PromptFile, facts: Words, examples: Sequence[tuple[Words, str]], key: str
    ) -> tuple[dict[str, str], ...]:
        ours = {**self.domain.prompt_words, **{fact: facts[fact] for fact in prompt.facts if fact in facts}}
        turns = [{"role": "system", "content": _system(prompt, ours)}]
        for asked, answered in examples:
            turns.append({"role": "user", "content": _rendered(prompt.question, {**ours, **asked})})
            turns.append({"role": "assistant", "content": answered})
        return (*turns, {"role": "user", "content": self._question(prompt, facts, key)})

    def _question(self, prompt: PromptFile, facts: Words, key: str) -> str:
        declared = {*prompt.facts, *prompt.data}
        if declared != set(facts):
            raise ValueError(f"prompts/{prompt.name}.md declares {sorted(declared)}, given are {sorted(facts)}")
        nonce = nonce_of(self.seed, key)
        data = {name: fenced(facts[name], nonce=nonce, longest=longest) for name, longest in prompt.data.items()}
        return _rendered(prompt.question, {**self.domain.prompt_words, **facts, **data})


def _system(prompt: PromptFile, ours: Words) -> str:
    """The system message; the rule about data is not of the prompt file, so that no wording can leave it out."""
    system = _rendered(prompt.system, ours)
    return f"{system}\n\n{prompt_files.shipped('data_rule').question}" if prompt.data else system


def _rendered(source: str, facts: Words) -> str:
    return prompt_files.template(source).render(facts).strip()
