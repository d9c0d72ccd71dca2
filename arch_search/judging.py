"""Measuring the Judge with programs whose worth is known: all pairs once for a campaign and model, one a generation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Literal

from arch_search.agents import judge
from arch_search.agents.judge import Opinion, Scale, Subject
from arch_search.agents.known_programs import KnownPair, anchors, known_pairs
from arch_search.analysis.opinions import Calibration, JudgeRecord, PairMarks
from arch_search.campaign import Campaign
from arch_search.domains import domain_named
from arch_search.errors import ReplyError
from arch_search.generation import read_record
from arch_search.proposals.difference import describe_difference
from arch_search.protocols import ModelClient
from cognition_db.experience.files import write_atomic
from cognition_db.records import canonical_json, sha256_text, to_json

_ORDERS: tuple[Literal["better", "worse"], ...] = ("better", "worse")


def scale_of(campaign: Campaign) -> Scale:
    """What all programs of a campaign are marked against."""
    domain = domain_named(campaign.config.domain.name)
    return Scale(reference=domain.seed_program, anchors=anchors(domain), effectiveness=domain.words.effectiveness)


def measure_judge(campaign: Campaign, number: int, client: ModelClient, pool: Executor) -> Callable[[], None]:
    """Have known programs marked in `pool`: all pairs where this model did not yet, and the canaries of a generation.

    Returns what waits for the marks and puts them into files.
    """
    pairs = known_pairs(domain_named(campaign.config.domain.name))
    model = campaign.config.llm.model_of("judge")
    file, canary_file = campaign.paths.calibration(_digest(model)), campaign.generation(number).canaries
    ask = _Asking(campaign, client)
    known: list[Future[PairMarks]] = []
    canary: Future[PairMarks] | None = None
    if pairs and not file.exists():
        # by number, not by name: a replay knows the calls of the campaign, not what its model was called
        place = len(list(campaign.paths.calibrations.glob("*.json")))
        known = [
            pool.submit(ask.in_order, pair, first, f"calibration/{place}/{pair.name}/{first}")
            for pair in pairs
            for first in _ORDERS
        ]
    if pairs and not canary_file.exists():
        pair = pairs[number % len(pairs)]
        canary = pool.submit(ask.alone, pair, f"g{number:04d}/canary/{pair.name}")

    def record() -> None:
        if known:
            _write(file, Calibration(model=model, marks=tuple(one.result() for one in known)))
        if canary:
            _write(canary_file, canary.result())

    return record


def judge_record(campaign: Campaign) -> JudgeRecord:
    """How the Judge marked known programs so far."""
    files = sorted(campaign.paths.calibrations.glob("*.json"))
    canaries = (campaign.generation(number).canaries for number in range(1, campaign.generations_closed() + 1))
    return JudgeRecord(
        calibrations=tuple(read_record(Calibration, file) for file in files),
        canaries=tuple(read_record(PairMarks, file) for file in canaries if file.exists()),
    )


class _Asking:
    """Marks of known programs as the programs of the search get them."""

    def __init__(self, campaign: Campaign, client: ModelClient) -> None:
        self._campaign = campaign
        self._client = client
        self._scale = scale_of(campaign)

    def in_order(self, pair: KnownPair, first: Literal["better", "worse"], key: str) -> PairMarks:
        """One program, then the other in the same conversation."""
        programs = {"better": pair.better, "worse": pair.worse}
        second = next(name for name in programs if name != first)
        subject = self._subject(programs[first])
        opinion = self._marks(subject, f"{key}/1/judge")
        after = (subject, opinion) if opinion else None
        other = self._marks(self._subject(programs[second]), f"{key}/2/judge", after=after)
        scores = {first: opinion, second: other}
        return PairMarks(pair=pair.name, first=first, better=_score(scores["better"]), worse=_score(scores["worse"]))

    def alone(self, pair: KnownPair, key: str) -> PairMarks:
        """Each program in a call of its own, as those of the search."""
        better = self._marks(self._subject(pair.better), f"{key}/better/judge")
        worse = self._marks(self._subject(pair.worse), f"{key}/worse/judge")
        return PairMarks(pair=pair.name, first="alone", better=_score(better), worse=_score(worse))

    def _subject(self, program: str) -> Subject:
        return Subject(program=program, motivation=describe_difference(self._scale.reference, program))

    def _marks(self, subject: Subject, key: str, after: tuple[Subject, Opinion] | None = None) -> Opinion | None:
        try:
            return judge.score(
                self._client,
                subject,
                scale=self._scale,
                prompts=self._campaign.prompts,
                key=key,
                sampling=self._campaign.config.roles.judge,
                after=after,
            )
        except ReplyError:
            return None


def _write(file: Path, record: Calibration | PairMarks) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, canonical_json(to_json(record)).encode())


def _score(opinion: Opinion | None) -> float | None:
    return opinion.score if opinion else None


def _digest(model: str) -> str:
    """A name for a file: a model may be a path."""
    return sha256_text(model)[:12]
