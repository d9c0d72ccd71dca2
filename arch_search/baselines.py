"""What a campaign asks of its domain: the reference, the baselines, and that settings fit."""

from __future__ import annotations

from collections.abc import Sequence

from arch_search.config import Config
from arch_search.domains import Domain, domain_named
from arch_search.errors import ConfigError
from arch_search.generation import SlotPlan, baseline_plans, slot_plans
from arch_search.proposals import rungs
from arch_search.proposals.assignment import Draft
from arch_search.proposals.registry import BUILT_IN


def baseline_draft(plan: SlotPlan, domain: Domain, baselines: Sequence[str]) -> Draft:
    """Program text of one baseline; ConfigError if there is none of that name."""
    if plan.slot == 0:
        return Draft(program=domain.seed_program, class_name=domain.contract.class_name, motivation="the reference")
    program = domain.baseline(baseline_name(plan, domain, baselines))
    return Draft(program=program, class_name="", motivation="a published baseline")


def require_domain(config: Config) -> None:
    """ConfigError if a setting asks for what the domain does not have: a baseline, a probe, the toolbox."""
    domain = domain_named(config.domain.name)
    for plan in baseline_plans(config):
        baseline_draft(plan, domain, config.campaign.baselines)
    if "recall" not in domain.contract.probes:
        for key, value in (("metric", config.selection.metric), ("policy", config.selection.policy)):
            if value in ("recall_accuracy", "asi_arch"):
                raise ConfigError(
                    f"selection.{key}={value} ranks by recall, which domain {domain.name} is not probed for"
                )
    for slot in slot_plans(config):
        highest, name = slot.rung or config.roles.highest_rung, slot.rung or "ladder"
        if highest in rungs.TOOLBOX_RUNGS and not rungs.editable_methods(domain.seed_program, BUILT_IN):
            raise ConfigError(
                f"campaign.slots.{name} needs the toolbox, of which domain {domain.name} has no program; "
                "set it to 0 and use method_splice and whole_module"
            )


def baseline_name(plan: SlotPlan, domain: Domain, baselines: Sequence[str]) -> str:
    return baselines[plan.slot - 1] if plan.slot else domain.reference
