"""Steering: what a researcher asks of a running campaign, and the set of it that holds for one generation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cognition_db.records import WRITTEN_RUNGS, Arm, Rung, sha256_text

Kind = Literal["pause", "resume", "ban", "unban", "pin", "unpin", "prompt", "idea", "program"]
Banned = Literal["family", "rung", "candidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, in the order of their numbers; what each kind leaves out is empty.

    `subject`: the family, rung or candidate of a ban, the candidate of a pin, the name of a prompt, the class of a
    program. `text`: the prompt (empty: the one that came with the program again), the idea or the program.
    """

    number: int
    kind: Kind
    subject: str = ""
    of: Banned | None = None
    every: int = 1
    text: str = ""
    unix: float
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ban:
    request: int
    of: Banned
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A parent that is given to every `every`-th slot of the search, counted from slot 0."""

    request: int
    candidate: str
    every: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    request: int
    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gift:
    """An idea for the slot that is given it, or a program with a slot of its own."""

    request: int
    slot: int
    text: str
    class_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """All that holds for one generation. `files`: every request taken in by then, with the sha256 of its file."""

    files: dict[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()  # requests that were left out, and why
    bans: tuple[Ban, ...] = ()
    pins: tuple[Pin, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    closed_rungs: tuple[str, ...] = ()  # rungs that are banned, or have nothing left to change
    ideas: tuple[Gift, ...] = ()
    programs: tuple[Gift, ...] = ()

    @property
    def banned_families(self) -> frozenset[str]:
        return frozenset(ban.subject for ban in self.bans if ban.of == "family")

    def pin_of(self, slot: int, attempt: int) -> Pin | None:
        """The pin that holds for a try; several for one slot take turns."""
        holding = [pin for pin in self.pins if slot % pin.every == 0]
        return holding[(slot + attempt) % len(holding)] if holding else None

    def idea_of(self, slot: int) -> Gift | None:
        return next((idea for idea in self.ideas if idea.slot == slot), None)

    def program_of(self, slot: int) -> Gift:
        return next(program for program in self.programs if program.slot == slot)

    def words(self, arm: Arm, rung: Rung, *, slot: int, pin: Pin | None) -> tuple[str, ...]:
        """What of it had a part in a try: the provenance that goes with the proposal."""
        if arm == "hand":
            return (f"program by hand (request {self.program_of(slot).request})",)
        if arm in ("baseline", "placebo"):
            return ()
        said = [f"ban of {ban.of} {ban.subject} (request {ban.request})" for ban in self.bans]
        if pin is not None:
            said.append(f"parent {pin.candidate} pinned (request {pin.request})")
        if rung in WRITTEN_RUNGS:
            others = {f"researcher_{other}" for other in WRITTEN_RUNGS if other != rung}
            said += [
                f"prompt {prompt.name} {sha256_text(prompt.text)[:12]} (request {prompt.request})"
                for prompt in self.prompts
                if prompt.name not in others
            ]
        idea = self.idea_of(slot)
        return (*said, f"idea by hand (request {idea.request})") if idea else tuple(said)


def standing(requests: Iterable[Request]) -> Steering:
    """Bans, pins and prompts after all requests; the last word on each subject counts."""
    bans: dict[tuple[Banned | None, str], Ban] = {}
    pins: dict[str, Pin] = {}
    prompts: dict[str, Prompt] = {}
    for one in requests:
        if one.kind in ("ban", "unban"):
            bans.pop((one.of, one.subject), None)
            if one.kind == "ban" and one.of is not None:
                bans[one.of, one.subject] = Ban(request=one.number, of=one.of, subject=one.subject)
        elif one.kind in ("pin", "unpin"):
            pins.pop(one.subject, None)
            if one.kind == "pin":
                pins[one.subject] = Pin(request=one.number, candidate=one.subject, every=one.every)
        elif one.kind == "prompt":
            prompts.pop(one.subject, None)
            if one.text:
                prompts[one.subject] = Prompt(request=one.number, name=one.subject, text=one.text)
    return Steering(bans=tuple(bans.values()), pins=tuple(pins.values()), prompts=tuple(prompts.values()))


def given(
    steering: Steering, requests: Sequence[Request], *, used: Iterable[int], idea_slots: Sequence[int], first_free: int
) -> Steering:
    """The same with the ideas and programs that were not `used` in an earlier generation.

    Each idea gets one of `idea_slots`, those left over wait for the next generation; each program gets a slot of its
    own, from `first_free` on.
    """
    done = set(used)
    ideas = [one for one in requests if one.kind == "idea" and one.number not in done]
    programs = [one for one in requests if one.kind == "program" and one.number not in done]
    return replace(
        steering,
        ideas=tuple(
            Gift(request=one.number, slot=slot, text=one.text)
            for slot, one in zip(idea_slots, ideas, strict=False)  # the shorter of the two ends it
        ),
        programs=tuple(
            Gift(request=one.number, slot=first_free + index, text=one.text, class_name=one.subject)
            for index, one in enumerate(programs)
        ),
    )


def pause_of(requests: Iterable[Request]) -> Request | None:
    """The request that holds the campaign; None where it goes on."""
    last = None
    for one in requests:
        if one.kind in ("pause", "resume"):
            last = one
    return last if last is not None and last.kind == "pause" else None
