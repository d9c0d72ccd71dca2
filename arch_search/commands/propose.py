"""`arch-search propose`: a program or an idea of a researcher for the next generation of a campaign."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arch_search.admission import static
from arch_search.campaign import Campaign, open_campaign
from arch_search.clean_text import one_line
from arch_search.commands.check import read_program
from arch_search.commands.steer import next_generation
from arch_search.domains import domain_named
from arch_search.errors import CampaignError, ConfigError
from arch_search.generation import slot_plans
from arch_search.memory import Known
from arch_search.proposals.fingerprint import normal_form_or_empty
from arch_search.reporting import everything_so_far
from arch_search.steering import standing
from arch_search.steering_files import ask, read_requests
from cognition_db.records import Verdict

_MAX_IDEA_CHARACTERS = 800  # of what prompts show of a plan


def run(options: argparse.Namespace) -> int:
    if (options.file is None) == (options.idea is None):
        raise ConfigError("give either a file with a program or --idea TEXT")
    campaign = open_campaign(Path(options.dir))
    number = next_generation(campaign)
    if options.file is None:
        made = ask(campaign, _of_idea(campaign, options.idea))
        print(f"request {made.number} is on file: the idea goes to a slot of generation {number} or later")
    else:
        made = ask(campaign, _of_program(campaign, Path(options.file), options.class_name or ""))
        print(f"request {made.number} is on file: the program is checked and trained in generation {number}")
    return 0


def _of_idea(campaign: Campaign, text: str) -> dict[str, Any]:
    idea = one_line(text)
    if not 1 <= len(idea) <= _MAX_IDEA_CHARACTERS:
        raise ConfigError(f"the idea has {len(idea)} characters; give 1 to {_MAX_IDEA_CHARACTERS}")
    banned = {ban.subject for ban in standing(read_requests(campaign).valid).bans if ban.of == "rung"}
    written = [plan for plan in slot_plans(campaign.config) if plan.arm == "evolve" and plan.asks_model]
    if not any(plan.is_open(campaign.config, banned) for plan in written):
        raise CampaignError(f"{campaign.paths.root}: no slot asks a model to follow an idea; propose a program instead")
    return {"kind": "idea", "text": idea}


def _of_program(campaign: Campaign, file: Path, class_name: str) -> dict[str, Any]:
    """The program, after the checks that need only its text; the others are done in its generation."""
    settings = campaign.config.admission
    program = read_program(file, settings.max_program_bytes)
    verdicts = (program,) if isinstance(program, Verdict) else _on_text(campaign, program, class_name)
    refusing = next((verdict for verdict in verdicts if verdict.refuses), None)
    if refusing is not None:
        raise CampaignError(f"{file}: refused by {refusing.check}: {refusing.reason}")
    return {"kind": "program", "subject": class_name, "text": program}


def _on_text(campaign: Campaign, program: str, class_name: str) -> tuple[Verdict, ...]:
    waiting = {
        normal_form_or_empty(one.text): f"request {one.number}"
        for one in read_requests(campaign).valid
        if one.kind == "program"
    }
    return static.check_program(
        program,
        class_name=class_name,
        default_class=domain_named(campaign.config.domain.name).contract.class_name,
        normal_form=normal_form_or_empty(program),
        settings=campaign.config.admission,
        known={**Known().with_candidates(everything_so_far(campaign).candidates).normal_forms, **waiting},
        own_rung=True,
    )
