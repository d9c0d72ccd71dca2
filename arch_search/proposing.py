"""Propose, screen, admit, repair: how the slots of a generation are filled, one file per try."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TypeVar

from arch_search.admission import static
from arch_search.admission.runner import AdmissionOrder, AdmissionReport
from arch_search.admitting import Admitter
from arch_search.agents.call_log import CallLog
from arch_search.agents.embedding import Nearness
from arch_search.baselines import baseline_draft, baseline_name
from arch_search.campaign import Campaign
from arch_search.domains import domain_named
from arch_search.drawing import Drawn, Written, draw, parent_choices, refusal, with_rungs
from arch_search.errors import ProposalError
from arch_search.generation import (
    OpenSlots,
    admitted,
    is_of_search,
    next_round,
    open_slots,
    read_tries,
)
from arch_search.growing import toolbox_before
from arch_search.memory import Known, distinct, is_ours, repeated_failure
from arch_search.past import Past, informed, outcomes
from arch_search.proposals import placebo
from arch_search.proposals.assignment import Draft
from arch_search.proposals.fingerprint import normal_form_or_empty
from arch_search.proposals.registry import BUILT_IN
from arch_search.protocols import ModelClient
from arch_search.repairing import Repairer
from arch_search.reviewing import Reviewer
from arch_search.selection.pool import ParentChoice
from arch_search.steered import hand_draft, verdict_on
from arch_search.steering import Steering
from arch_search.training.data import load_corpus
from arch_search.writing import Writer, draft_without_model, try_key, with_calls
from cognition_db.experience.archive import ArchiveContents
from cognition_db.experience.files import write_atomic
from cognition_db.records import (
    Candidate,
    Proposal,
    SlotTry,
    Verdict,
    Writing,
    candidate_id,
    canonical_json,
    sha256_text,
    to_json,
)
from slurm.launchers import Launcher

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Proposer:
    """Fills the open slots of one generation.

    `pump` is called about once a second while threads wait for the model or for checks, so that trainings go on.
    """

    def __init__(
        self,
        campaign: Campaign,
        *,
        steering: Steering,
        launcher: Launcher,
        client: Callable[[], ModelClient],
        calls: CallLog,
        pump: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._campaign = campaign
        self._config = campaign.config
        self._steering = steering
        self._reference: Candidate | None = None
        self._toolbox = BUILT_IN
        self._domain = domain_named(campaign.config.domain.name)
        self._client = client
        self._calls = calls
        self._pump = pump
        self._say = say
        self._admitter = Admitter(campaign, launcher, pump)
        self._repairer = Repairer(campaign, client)
        self._nearness = Nearness(client) if self._config.roles.retrieval == "embedding" else None
        self._vocab = load_corpus(campaign.paths.data).vocab

    def fill(self, number: int, contents: ArchiveContents, reference: Candidate | None) -> None:
        """Fill every slot of generation `number`; returns when none wants another try."""
        paths = self._campaign.generation(number)
        self._reference = reference
        self._toolbox = toolbox_before(self._campaign, number)
        choices = parent_choices(
            number, config=self._config, contents=contents, reference=reference, steering=self._steering
        )
        measured = outcomes(contents, self._config.selection)
        writer = Writer(self._campaign, self._client, contents=contents, reference=reference)
        with ThreadPoolExecutor(max_workers=self._config.llm.callers) as pool:
            while wanting := next_round(open_slots(number, tries := read_tries(paths), self._config, self._steering)):
                # what is on disk of this very round must not count: a killed driver comes back to it
                earlier = [one for one in tries if one.proposal.attempt < wanting[0][1]]
                past = Past(tries=(*contents.tries, *earlier), outcomes=measured)
                drawn = [informed(number, one, past) for one in self._drawn(number, wanting, contents, choices, tries)]
                self._prepare_client(drawn)
                written = self._all(pool, lambda one: self._write(number, one, contents, writer), drawn)
                resumed = [one for one in tries if one.proposal.attempt == wanting[0][1]]
                checked = self._checked(number, written, contents, past, resumed)
                for tried in self._reviewed(pool, checked, contents):
                    self._record(number, tried)

    def _drawn(
        self,
        number: int,
        wanting: OpenSlots,
        contents: ArchiveContents,
        choices: Sequence[ParentChoice],
        tries: Sequence[SlotTry],
    ) -> list[Drawn]:
        config, reference, steering = self._config, self._reference, self._steering
        known = with_rungs(
            number, wanting, config=config, contents=contents, tries=tries, reference=reference, steering=steering
        )
        return [
            draw(
                number,
                plan,
                attempt,
                config=config,
                contents=contents,
                choices=choices,
                reference=reference,
                steering=steering,
                toolbox=self._toolbox,
                nearness=self._nearness,
            )
            for plan, attempt in known
        ]

    def _prepare_client(self, drawn: Sequence[Drawn]) -> None:
        if any(one.assignment for one in drawn):
            self._client()

    # ---- write

    def _write(self, number: int, drawn: Drawn, contents: ArchiveContents, writer: Writer) -> Written:
        plan, reference = drawn.plan, self._reference
        if plan.arm == "baseline":
            return Written(drawn, baseline_draft(plan, self._domain, self._config.campaign.baselines), None, None)
        if plan.arm == "hand":
            return Written(drawn, hand_draft(self._steering.program_of(plan.slot)), None, None)
        assert drawn.parent is not None
        assert reference is not None
        if plan.arm == "placebo":
            draft = placebo.placebo(drawn.parent, generation=number, slot=plan.slot)
            return Written(drawn, draft, None, None)
        try:
            if drawn.assignment is None:
                draft = draft_without_model(
                    drawn,
                    drawn.parent,
                    reference,
                    contents=contents,
                    banned=self._steering.banned_families,
                    toolbox=self._toolbox,
                )
                return Written(drawn, draft, None, None)
            return writer.write(number, drawn, drawn.assignment)
        except ProposalError as error:
            return Written(drawn, None, None, refusal("program", error))

    # ---- check

    def _checked(
        self,
        number: int,
        written: Sequence[Written],
        contents: ArchiveContents,
        past: Past,
        resumed: Sequence[SlotTry],
    ) -> Iterator[SlotTry]:
        """Admission of all written programs; duplicates are decided in slot order, whichever check ended first.

        `resumed` are those of the round that a killed driver has left.
        """
        decided, reference = list(resumed), self._reference
        if number == 0 and reference is None:  # its parameter count is the target for all others
            decided = list(self._admit(number, written[:1], Known(), None))
            written, reference = written[1:], decided[0].candidate
            yield decided[0]
        target = reference.parameter_count if reference else None
        baselines = admitted(read_tries(self._campaign.generation(0))) if number else ()
        before = [*contents.candidates, *admitted(past.tries)]
        known = Known.of(baselines, before, failures=past.failures())
        for one, tried in zip(written, self._admit(number, written, known, target), strict=True):
            first = distinct(tried, known, decided, self._config.admission)

            def check(mended: Written) -> SlotTry:
                again = next(self._admit(number, [mended], known, target))
                return distinct(again, known, decided, self._config.admission)

            decided.append(self._repairer.repaired(number, one, first, check))
            yield decided[-1]

    def _admit(self, number: int, written: Sequence[Written], known: Known, target: int | None) -> Iterator[SlotTry]:
        screened = [self._screened(one, known) for one in written]
        orders = [
            self._order(one, known, target)
            for one, verdicts in zip(written, screened, strict=True)
            if not any(verdict.refuses for verdict in verdicts)
        ]
        reports = iter(self._admitter.admit_all(number, orders))
        for one, verdicts in zip(written, screened, strict=True):
            refused = any(verdict.refuses for verdict in verdicts)
            yield self._tried(number, one, verdicts, None if refused else next(reports))

    def _screened(self, written: Written, known: Known) -> tuple[Verdict, ...]:
        """Verdicts that need only the text."""
        if written.draft is None:
            assert written.refusal is not None
            return (written.refusal,)
        program, arm = written.draft.program, written.drawn.plan.arm
        form = normal_form_or_empty(program)
        again = repeated_failure(form, known) if is_of_search(arm) else None
        if again is not None:
            return (again,)
        verdicts = static.check_program(
            program,
            class_name=written.draft.class_name,
            default_class=self._domain.contract.class_name,
            normal_form=form,
            settings=self._config.admission,
            known=known.normal_forms,
            own_rung=is_ours(arm),
        )
        if self._reference is None or not is_of_search(arm):
            return verdicts
        banned = verdict_on(program, self._steering, self._reference)
        return (*verdicts, banned) if banned else verdicts

    def _order(self, written: Written, known: Known, target: int | None) -> AdmissionOrder:
        assert written.draft is not None
        arm = written.drawn.plan.arm
        return AdmissionOrder(
            program=written.draft.program,
            class_name=written.draft.class_name,
            contract=self._domain.contract,
            settings=self._config.admission,
            stage=self._config.stage,
            target_parameters=target,
            exempt_cost=arm == "baseline",
            jail=self._config.jail,
            known_fingerprints=known.fingerprints,
            own_rung=is_ours(arm),
            vocab=self._vocab,
        )

    def _tried(
        self, number: int, written: Written, verdicts: tuple[Verdict, ...], report: AdmissionReport | None
    ) -> SlotTry:
        proposal, draft = self._proposal(number, written), written.draft
        verdicts += report.verdicts if report else ()
        if draft is None or report is None or any(verdict.refuses for verdict in verdicts):
            return SlotTry(proposal=proposal, verdicts=verdicts, candidate=None)
        candidate = Candidate(
            id=candidate_id(draft.program),
            program=draft.program,
            class_name=report.class_name,
            name=self._name(number, written.drawn, draft),
            arm=proposal.arm,
            rung=proposal.rung,
            generation=number,
            slot=proposal.slot,
            parents=proposal.parents,
            motivation=draft.motivation,
            parameter_count=report.parameter_count,
            verdicts=verdicts,
            insights=proposal.insights,
            fingerprint=report.fingerprint,
        )
        return SlotTry(proposal=proposal, verdicts=verdicts, candidate=candidate)

    def _reviewed(
        self,
        pool: ThreadPoolExecutor,
        checked: Iterator[SlotTry],
        contents: ArchiveContents,
    ) -> Iterable[SlotTry]:
        if not self._config.roles.reviewers_enabled:
            return checked
        reviewer = Reviewer(self._campaign, self._client, contents=contents, reference=self._reference)
        return self._all(pool, reviewer.reviewed, list(checked))

    # ---- record

    def _record(self, number: int, tried: SlotTry) -> None:
        proposal = tried.proposal
        tried = with_calls(tried, self._calls.under(try_key(number, proposal.slot, proposal.attempt)))
        path = self._campaign.generation(number).slot_try(proposal.slot, proposal.attempt)
        self._campaign.journal.require_writer()
        text = canonical_json(to_json(tried))
        write_atomic(path, text.encode())
        self._campaign.journal.append(
            "try",
            {
                "generation": number,
                "slot": proposal.slot,
                "attempt": proposal.attempt,
                "candidate": tried.candidate.id if tried.candidate else None,
                "sha256": sha256_text(text),
            },
        )
        refusing = tried.refusing
        outcome = f"refused: {refusing.check}: {refusing.reason}" if refusing else "admitted"
        name = tried.candidate.name if tried.candidate else f"{proposal.rung} {proposal.method}".strip()
        self._say(f"gen {number}: slot {proposal.slot} {name} {outcome}")

    def _proposal(self, number: int, written: Written) -> Proposal:
        drawn, draft, reply = written.drawn, written.draft, written.reply
        return Proposal(
            generation=number,
            slot=drawn.plan.slot,
            attempt=drawn.attempt,
            arm=drawn.plan.arm,
            rung=drawn.plan.drawn_rung,
            parents=drawn.parents,
            seed=drawn.seed,
            program=draft.program if draft else "",
            class_name=draft.class_name if draft else self._domain.contract.class_name,
            motivation=draft.motivation if draft else "",
            method=drawn.assignment.method if drawn.assignment else (draft.method if draft else ""),
            insights=(drawn.assignment.insight.id,) if drawn.assignment and drawn.assignment.insight else (),
            model=reply.model if reply else "",
            prompt_sha256=reply.prompt_sha256 if reply else "",
            reply_sha256=reply.reply_sha256 if reply else "",
            repairs=written.repairs,
            writing=steered_writing(written),
        )

    def _name(self, number: int, drawn: Drawn, draft: Draft) -> str:
        if drawn.plan.arm == "baseline":
            return baseline_name(drawn.plan, self._domain, self._config.campaign.baselines)
        what = drawn.plan.arm if drawn.plan.arm != "evolve" else drawn.plan.drawn_rung.replace("_program", "")
        return f"g{number}.{drawn.plan.slot}-{what}" + (f"-{draft.method}" if draft.method else "")

    # ---- waiting

    def _all(self, pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        futures = [pool.submit(work, item) for item in items]
        return [self._wait(future) for future in futures]

    def _wait(self, future: Future[_Result]) -> _Result:
        while not wait([future], timeout=1.0).done:
            self._pump()
        return future.result()


def steered_writing(written: Written) -> Writing | None:
    """The record of the writing with what a researcher had asked for; None where neither says anything."""
    if not written.drawn.steering:
        return written.writing
    by_hand = Writing(origin="hand") if written.drawn.plan.arm == "hand" else Writing()
    return replace(written.writing or by_hand, steering=written.drawn.steering)
