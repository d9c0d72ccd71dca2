"""Repairs of free code: the Engineer is shown what the checks said, and its program goes through the same checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from arch_search.agents import engineer
from arch_search.campaign import Campaign
from arch_search.drawing import Written, refusal
from arch_search.errors import ProposalError, ReplyError
from arch_search.generation import read_tries
from arch_search.proposals import rungs
from arch_search.protocols import ModelClient
from arch_search.writing import try_key
from cognition_db.records import WRITTEN_ARMS, SlotTry

FREE_RUNGS = frozenset({"toolbox_program", "method_splice", "whole_module"})


class Repairer:
    """Asks for repairs, as long as enough of them succeed."""

    def __init__(self, campaign: Campaign, client: Callable[[], ModelClient]) -> None:
        self._campaign = campaign
        self._config = campaign.config
        self._client = client

    def repaired(self, number: int, written: Written, tried: SlotTry, check: Callable[[Written], SlotTry]) -> SlotTry:
        """The try after repairs, each `check`ed; the same try where none is due.

        A program whose causality was not proved gets one repair. It stays as it is, with its mark, where the repaired
        one is not proved either.
        """
        # in a batch each repair would be a job of its own in the queue
        rounds = 0 if self._config.llm.kind == "vllm_batch" else self._config.campaign.repair_rounds
        for round_number in range(1, rounds + 1):
            if written.reply is None or not _is_repairable(tried) or not self._pays():
                return tried
            if tried.refusing is not None:
                written = self._mend(number, written, tried, round_number)
                tried = check(written)
                continue
            proved = check(self._mend(number, written, tried, round_number))
            if proved.candidate is not None and not _lacks_proof(proved):
                return proved
            return replace(tried, proposal=replace(tried.proposal, repairs=round_number))
        return tried

    def _pays(self) -> bool:
        settings = self._config.campaign
        tries = [
            one
            for number in range(settings.generations + 1)
            for one in read_tries(self._campaign.generation(number))
            if one.proposal.repairs
        ]
        return engineer.repair_pays(
            len(tries),
            sum(one.candidate is not None and not _lacks_proof(one) for one in tries),
            min_tries=settings.repair_min_tries,
            stop_share=settings.repair_stop_share,
        )

    def _mend(self, number: int, written: Written, tried: SlotTry, round_number: int) -> Written:
        drawn, assignment, reply = written.drawn, written.drawn.assignment, written.reply
        assert assignment is not None
        assert reply is not None
        key = try_key(number, drawn.plan.slot, drawn.attempt)
        try:
            reply = engineer.repair(
                self._client(),
                assignment,
                refused=reply.text,
                verdicts=tried.verdicts,
                prompts=self._campaign.prompts,
                after=f"{key}/researcher",
                key=f"{key}/engineer-{round_number}",
                sampling=self._config.roles.engineer,
            )
            draft = rungs.program_from_reply(assignment, reply.text)
        except (ReplyError, ProposalError) as error:
            return replace(written, draft=None, reply=reply, refusal=refusal("repair", error), repairs=round_number)
        return replace(written, draft=draft, reply=reply, refusal=None, repairs=round_number)


def _is_repairable(tried: SlotTry) -> bool:
    """Free code that was refused for what it does, or admitted without a proof of its causality."""
    is_free = tried.proposal.arm in WRITTEN_ARMS and tried.proposal.rung in FREE_RUNGS
    repeats = any(verdict.refuses and verdict.check.startswith("duplicate") for verdict in tried.verdicts)
    return is_free and not repeats and (tried.refusing is not None or _lacks_proof(tried))


def _lacks_proof(tried: SlotTry) -> bool:
    return bool(engineer.lost_proofs(tried.verdicts))
