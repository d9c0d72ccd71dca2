"""Growth: functions of free code that was proved causal and gained beyond noise may enter the toolbox, after checks.

Decided when a generation closes, once, in a file: later generations are offered what the files before them hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from arch_search.admission.request import PieceRequest, PieceSeen
from arch_search.admission.runner import AdmissionOrder, AdmissionReport, watch_pieces
from arch_search.admitting import Admitter
from arch_search.analysis.parents import against_parents
from arch_search.analysis.statistics import Standing, standings
from arch_search.campaign import Campaign
from arch_search.closing import contents_with
from arch_search.domains import domain_named
from arch_search.generation import read_record
from arch_search.paths import GenerationPaths
from arch_search.proposals import splice
from arch_search.proposals.extraction import LAYOUTS, Layout, Piece, pieces_of, twin_of
from arch_search.proposals.fingerprint import grown_name
from arch_search.proposals.growth import Growth, Offer, toolbox_of
from arch_search.proposals.registry import BUILT_IN, BY_HOOK, Primitive, Toolbox
from arch_search.proposals.rendering import MIXER, is_toolbox_program, render
from arch_search.training.data import load_corpus
from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.files import write_atomic
from cognition_db.experience.journal import read
from cognition_db.records import Candidate, Evaluation, Rung, canonical_json, sha256_text, to_json

GROWN = "toolbox"  # kind of the journal's line
_FREE: frozenset[Rung] = frozenset({"method_splice", "whole_module", "hand"})
_PLACE = BY_HOOK["values"]  # where a primitive is tried: a vector per token goes in and comes out


def read_growth(paths: GenerationPaths) -> Growth:
    """What a generation offered; nothing where it was not asked."""
    return read_record(Growth, paths.toolbox) if paths.toolbox.exists() else Growth()


def growths_before(campaign: Campaign, number: int) -> tuple[Growth, ...]:
    """Of the generations before `number`."""
    return tuple(read_growth(campaign.generation(earlier)) for earlier in range(number))


def toolbox_before(campaign: Campaign, number: int) -> Toolbox:
    """What writers of generation `number` have at hand."""
    return toolbox_of(growths_before(campaign, number))


def grow(
    campaign: Campaign,
    number: int,
    evaluations: Sequence[Evaluation],
    *,
    reference: Candidate,
    admitter: Admitter,
    say: Callable[[str], None],
) -> None:
    """Decide and record what of a measured generation enters the toolbox; a second call changes nothing."""
    if not number or not campaign.config.campaign.toolbox_growth:
        return
    file = campaign.generation(number).toolbox
    if not file.exists():
        growth = _Growing(campaign, number, reference, admitter).growth(contents_with(campaign, number, evaluations))
        campaign.journal.require_writer()
        write_atomic(file, canonical_json(to_json(growth)).encode())
        for one in growth.entered:
            say(f"gen {number}: {one.name} enters the toolbox, from line {one.line} of {one.candidate_id}")
    known = [entry for entry in read(campaign.paths.journal).entries if entry.kind == GROWN]
    if number not in [entry.data["generation"] for entry in known]:
        campaign.journal.append(GROWN, {"generation": number, "sha256": sha256_text(file.read_text())})


class _Growing:
    """The growth of one generation."""

    def __init__(self, campaign: Campaign, number: int, reference: Candidate, admitter: Admitter) -> None:
        self._campaign = campaign
        self._config = campaign.config
        self._number = number
        self._reference = reference
        self._admitter = admitter
        self._toolbox = toolbox_before(campaign, number)
        self._workdir = campaign.paths.jail_tmp / f"g{number:04d}"

    def growth(self, contents: ArchiveContents) -> Growth:
        if not is_toolbox_program(self._reference.program, BUILT_IN):
            return Growth()
        offers: list[Offer] = []
        for candidate, row, reason in self._in_turn(contents):
            whole = Offer(candidate_id=candidate.id, gain=row.improvement, low=row.low, high=row.high, reason=reason)
            offers += [whole] if reason else self._of_program(candidate, whole)
        return Growth(offers=self._tried(offers))

    def _in_turn(self, contents: ArchiveContents) -> Iterator[tuple[Candidate, Standing, str]]:
        """Programs of free code of this generation, the surest gain first, each with what keeps it from offering."""
        selection, reference = self._config.selection, self._reference.id
        rows = standings(contents, reference_id=reference, metric=selection.metric, confidence=selection.confidence)
        parents = against_parents(
            contents, reference_id=reference, metric=selection.metric, confidence=selection.confidence
        )
        candidates = {one.id: one for one in contents.candidates}
        for row in rows:
            candidate = candidates[row.candidate_id]
            if candidate.generation != self._number or candidate.rung not in _FREE or row.verdict == "not_measured":
                continue
            over_parent = parents.get(candidate.id)
            reason = ""
            if row.verdict != "better":
                reason = "its program is not better than the reference beyond noise"
            elif over_parent is not None and not over_parent.low > 0:
                reason = "its program is not better than its parent beyond noise"
            elif not _is_proved(candidate, contents.evaluations):
                reason = "the causality of its program was not proved"
            yield candidate, row, reason

    # ---- one program

    def _of_program(self, candidate: Candidate, whole: Offer) -> list[Offer]:
        """Its functions in the order of the text: those without a reason are to be tried."""
        found = pieces_of(candidate.program, self._reference.program, self._toolbox)
        pieces = [one for one in found if isinstance(one, Piece)]
        seen = iter(self._watched(candidate, pieces) if pieces else ())
        offers = [
            self._seen(replace(whole, line=one.line), one, next(seen))
            if isinstance(one, Piece)
            else replace(whole, line=one.line, reason=one.reason)
            for one in found
        ]
        return offers or [replace(whole, reason="no function of it is new")]

    def _watched(self, candidate: Candidate, pieces: Sequence[Piece]) -> tuple[PieceSeen, ...]:
        admission = self._config.admission
        request = PieceRequest(
            class_name=candidate.class_name,
            default_class=domain_named(self._config.domain.name).contract.class_name,
            d_model=admission.d_model,
            n_heads=admission.n_heads,
            places=tuple(one.place for one in pieces),
            arguments=tuple(one.argument for one in pieces),
            sources=tuple({str(layout): text for layout, text in one.sources.items()} for one in pieces),
            calls=tuple(call for one in self._toolbox.primitives for call in _calls(one)),
            grown=tuple(one.source for one in self._toolbox.grown),
        )
        return watch_pieces(
            candidate.program, request, settings=admission, jail=self._config.jail, workdir=self._workdir
        )

    def _seen(self, offer: Offer, piece: Piece, seen: PieceSeen) -> Offer:
        layout = _layout(seen.layout)
        if layout is None:
            return replace(offer, reason="it does not turn one tensor of tokens into another of the same layout")
        source = piece.sources[layout]
        offer = replace(offer, name=grown_name(source), source=source, reads_past=seen.reads_past)
        twin = twin_of(source, self._toolbox)
        if twin:
            return replace(offer, reason=f"it is {twin} in other words")
        if seen.distance < self._config.admission.duplicate_distance:
            return replace(offer, reason=f"it does what {seen.nearest} does")
        return offer

    # ---- the checks

    def _tried(self, offers: Sequence[Offer]) -> tuple[Offer, ...]:
        """The offers after the checks on the reference with each primitive in it, as far as there is room."""
        names: set[str] = set()
        decided: list[Offer] = []
        for one in offers:
            again = not one.reason and one.name in names
            names |= {one.name} - {""}
            decided.append(replace(one, reason="an earlier one is the same") if again else one)
        orders = [self._order(one) for one in decided if not one.reason]
        reports = iter(self._admitter.admit_all(self._number, orders))
        room = self._config.campaign.toolbox_growth - len(self._toolbox.grown)
        for place, one in enumerate(decided):
            if not one.reason:
                decided[place] = _judged(one, next(reports), room)
                room -= not decided[place].reason
        return tuple(decided)

    def _order(self, offer: Offer) -> AdmissionOrder:
        """The reference with what is stored in the memory going through the primitive alone."""
        domain = domain_named(self._config.domain.name)
        with_it = toolbox_of([Growth(offers=(offer,))])
        with_it = Toolbox((*self._toolbox.grown, *with_it.grown))
        hook = f"{_PLACE.signature}\n    return {offer.name}(v)\n"
        program = splice.put_method(self._reference.program, MIXER, _PLACE.name, hook)
        return AdmissionOrder(
            program=render(program, "The reference with one primitive that was found.", with_it),
            class_name=self._reference.class_name,
            contract=domain.contract,
            settings=self._config.admission,
            stage=self._config.stage,
            target_parameters=self._reference.parameter_count,
            exempt_cost=False,
            jail=self._config.jail,
            known_fingerprints={},
            own_rung=False,
            vocab=load_corpus(self._campaign.paths.data).vocab,
        )


def _judged(offer: Offer, report: AdmissionReport, room: int) -> Offer:
    offer = replace(offer, verdicts=tuple(replace(one, evidence={}) for one in report.verdicts))
    refusing = next((one for one in report.verdicts if one.refuses), None)
    if refusing is not None:
        return replace(offer, reason=f"alone in the reference it is refused: {refusing.check}")
    if not any(one.check == "certificate" and one.outcome == "passed" for one in report.verdicts):
        return replace(offer, reason="alone in the reference its causality is not proved")
    return offer if room > 0 else replace(offer, reason="the toolbox takes no more; see campaign.toolbox_growth")


def _is_proved(candidate: Candidate, evaluations: Sequence[Evaluation]) -> bool:
    """Whether causality was proved when it was admitted and again with its trained weights, wherever it was tried."""
    trained = [one.certificate for one in evaluations if one.task.candidate_id == candidate.id and one.certificate]
    admitted = any(one.check == "certificate" and one.outcome == "passed" for one in candidate.verdicts)
    return admitted and all(one.outcome == "passed" for one in trained)


def _layout(name: str) -> Layout | None:
    return next((layout for layout in LAYOUTS if layout == name), None)


def _calls(primitive: Primitive) -> list[str]:
    """Its calls on one vector and nothing that is learned."""
    if primitive.home not in ("function", "torch"):
        return []
    takes = primitive.signatures[0].takes
    if takes == ("vector",):
        return [f"{primitive.call}(v)"]
    return [f"{primitive.call}(v, {n})" for n in range(1, 9)] if takes == ("vector", "count") else []
