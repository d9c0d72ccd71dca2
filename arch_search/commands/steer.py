"""`arch-search steer`: what a researcher asks of a running campaign, put on file for whichever driver runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch_search.agents import prompt_files
from arch_search.analysis.show import find_candidate
from arch_search.analysis.text import short
from arch_search.campaign import Campaign, open_campaign
from arch_search.clean_text import one_line
from arch_search.errors import CampaignError, ConfigError
from arch_search.generation import read_steering, read_tries, searched_rungs, slot_plans
from arch_search.growing import toolbox_before
from arch_search.opening import closed_rungs
from arch_search.proposals.registry import BY_HOOK
from arch_search.reporting import everything_so_far, reference_id
from arch_search.selection.families import FREE
from arch_search.steered import excluded, has_place
from arch_search.steering import Banned, Request, Steering, pause_of, standing
from arch_search.steering_files import Requests, ask, read_requests, used_gifts
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import PARENT_ARMS, Candidate

_MAX_PROMPT_BYTES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a request is checked against: the programs so far, and the requests that are on file."""

    campaign: Campaign
    contents: ArchiveContents
    reference: Candidate
    requests: tuple[Request, ...]

    @staticmethod
    def of(campaign: Campaign) -> Known:
        contents = everything_so_far(campaign)
        reference = contents.candidate(reference_id(contents))
        if reference is None:
            raise CampaignError(f"{campaign.paths.root}: its reference is not checked yet; ask again in a minute")
        return Known(campaign=campaign, contents=contents, reference=reference, requests=read_requests(campaign).valid)

    @property
    def held(self) -> Steering:
        return standing(self.requests)

    def with_request(self, fields: dict[str, Any]) -> Steering:
        """What would hold with one request more."""
        number = 1 + max((one.number for one in self.requests), default=0)
        return standing((*self.requests, Request(**fields, number=number, unix=0.0, host="")))


def run(options: argparse.Namespace) -> int:
    campaign = open_campaign(Path(options.dir))
    if options.action is None:
        for line in _lines(campaign, read_requests(campaign)):
            print(line)
        return 0
    if options.action in ("pause", "resume"):
        return _put(campaign, _of_pause(campaign, options.action), "holds from the driver's next poll on")
    number = next_generation(campaign)
    return _put(campaign, _ACTIONS[options.action](campaign, options), f"holds from generation {number} on")


def next_generation(campaign: Campaign) -> int:
    """The generation that is opened next: the first that a request can bear on.

    Raises:
        CampaignError: the last one is open already.
    """
    last = campaign.config.campaign.generations
    for number in range(max(1, campaign.generations_closed()), last + 1):
        paths = campaign.generation(number)
        if not paths.steering.exists() and not read_tries(paths):
            return number
    raise CampaignError(f"{campaign.paths.root}: its last generation ({last}) is opened; nothing more will be drawn")


def _put(campaign: Campaign, request: dict[str, Any], since: str) -> int:
    made = ask(campaign, request)
    print(f"request {made.number} is on file: {_words(made)}; it {since}")
    return 0


# ---- the actions: each gives the fields of its request, or raises in one line


def _of_pause(campaign: Campaign, action: str) -> dict[str, Any]:
    if campaign.is_finished():
        raise CampaignError(f"{campaign.paths.root}: finished; there is nothing to {action}")
    is_paused = pause_of(read_requests(campaign).valid) is not None
    if is_paused == (action == "pause"):
        raise CampaignError(f"{campaign.paths.root}: {'already' if is_paused else 'not'} paused")
    return {"kind": action}


def _of_ban(campaign: Campaign, options: argparse.Namespace) -> dict[str, Any]:
    known = Known.of(campaign)
    of, subject = _banned(known, options.what)
    request: dict[str, Any] = {"kind": "ban", "of": of, "subject": subject}
    if any((ban.of, ban.subject) == (of, subject) for ban in known.held.bans):
        raise CampaignError(f"{of} {subject} is banned already")
    if subject == known.reference.id:
        raise CampaignError("the reference cannot be banned: without it no parent would be left")
    would = known.with_request(request)
    closed = closed_rungs(campaign.config, would, known.reference)
    searching = [plan for plan in slot_plans(campaign.config) if plan.arm in PARENT_ARMS]
    if not any(plan.is_open(campaign.config, closed) for plan in searching):
        raise CampaignError(f"a ban of {subject} would leave nothing to change: no slot could make a program")
    lost = excluded(would, known.contents.candidates, known.reference)
    for pin in would.pins:
        if pin.candidate in lost:
            raise CampaignError(f"a ban of {subject} would hit the pinned parent {pin.candidate}; unpin it first")
    return request


def _of_unban(campaign: Campaign, options: argparse.Namespace) -> dict[str, Any]:
    for ban in standing(read_requests(campaign).valid).bans:
        if options.what and (ban.subject == options.what or (ban.of == "candidate" and _begins(ban.subject, options))):
            return {"kind": "unban", "of": ban.of, "subject": ban.subject}
    raise CampaignError(f"{short(options.what, 40)!r} is not banned; arch-search steer {options.dir} lists what is")


def _of_pin(campaign: Campaign, options: argparse.Namespace) -> dict[str, Any]:
    if options.every < 1:
        raise ConfigError(f"--every {options.every}: give 1 for every slot, 2 for every second one, and so on")
    known = Known.of(campaign)
    candidate = find_candidate(known.contents, options.what)
    if candidate.arm not in PARENT_ARMS and candidate.id != known.reference.id:
        raise CampaignError(f"{candidate.id} is of the arm {candidate.arm}, which is there to compare with only")
    if candidate.id in excluded(known.held, known.contents.candidates, known.reference):
        raise CampaignError(f"{candidate.id} falls under a ban; unban first")
    closed = closed_rungs(campaign.config, known.held, known.reference)
    plans = [plan for plan in slot_plans(campaign.config) if plan.arm in PARENT_ARMS]
    rungs = {rung for plan in plans for rung in plan.rungs(campaign.config)} - set(closed)
    toolbox = toolbox_before(campaign, campaign.generations_closed())
    if not any(has_place(rung, candidate, known.reference, known.held.banned_families, toolbox) for rung in rungs):
        raise CampaignError(f"no rung of this campaign ({', '.join(sorted(rungs))}) can change {candidate.id}")
    return {"kind": "pin", "subject": candidate.id, "every": options.every}


def _of_unpin(campaign: Campaign, options: argparse.Namespace) -> dict[str, Any]:
    for pin in standing(read_requests(campaign).valid).pins:
        if _begins(pin.candidate, options):
            return {"kind": "unpin", "subject": pin.candidate}
    raise CampaignError(f"{short(options.what, 40)!r} is not pinned; arch-search steer {options.dir} lists what is")


def _of_prompt(campaign: Campaign, options: argparse.Namespace) -> dict[str, Any]:
    prompt_files.shipped(options.name)
    if options.default == (options.file is not None):
        raise ConfigError("give either a file with the prompt or --default")
    if options.default:
        if not any(prompt.name == options.name for prompt in standing(read_requests(campaign).valid).prompts):
            raise CampaignError(f"prompt {options.name} is the one of the program already")
        return {"kind": "prompt", "subject": options.name}
    text = _text_of(Path(options.file))
    prompt_files.require_rendering(options.name, text)
    return {"kind": "prompt", "subject": options.name, "text": text}


_ACTIONS: dict[str, Callable[[Campaign, argparse.Namespace], dict[str, Any]]] = {
    "ban": _of_ban,
    "unban": _of_unban,
    "pin": _of_pin,
    "unpin": _of_unpin,
    "prompt": _of_prompt,
}


def _banned(known: Known, what: str) -> tuple[Banned, str]:
    """A family, a rung of this campaign, or a candidate."""
    families = (*BY_HOOK, FREE)
    rungs = sorted(searched_rungs(known.campaign.config))
    if what in families:
        return "family", what
    if what in rungs:
        return "rung", what
    try:
        return "candidate", find_candidate(known.contents, what).id
    except CampaignError as error:
        raise CampaignError(
            f"{error}; families are {', '.join(families)}; rungs of this campaign are {', '.join(rungs)}"
        ) from None


def _begins(candidate: str, options: argparse.Namespace) -> bool:
    return bool(options.what) and candidate.startswith(options.what)


def _text_of(file: Path) -> str:
    try:
        data = file.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: no text of a prompt ({error})") from None
    if not text.strip() or len(data) > _MAX_PROMPT_BYTES:
        raise ConfigError(f"{file}: {len(data)} bytes; a prompt has 1 to {_MAX_PROMPT_BYTES}")
    return text


# ---- what is printed


def _lines(campaign: Campaign, requests: Requests) -> Iterator[str]:
    """What holds from the next generation on, and what is waiting."""
    held, used = standing(requests.valid), set(used_gifts(campaign, campaign.config.campaign.generations + 1))
    paused = pause_of(requests.valid)
    numbers = {ban.request for ban in held.bans} | {pin.request for pin in held.pins}
    numbers |= {prompt.request for prompt in held.prompts} | ({paused.number} if paused else set())
    waiting = {one.number for one in requests.valid if one.kind in ("idea", "program")} - used
    shown = [one for one in requests.valid if one.number in numbers | waiting]
    for one in shown:
        yield f"request {one.number}: {_words(one)}{', waiting' if one.number in waiting else ''}"
    yield from (one_line(reason) for reason in requests.refused)
    if not shown and not requests.refused:
        yield "nothing is asked of this campaign"
    opened = [read_steering(campaign.generation(one)) for one in range(1, campaign.config.campaign.generations + 1)]
    taken = max((len(one.files) for one in opened), default=0)
    yield f"{len(requests.valid)} requests are on file, {taken} were taken in by the last generation that was opened"


def _words(request: Request) -> str:
    text = short(request.text, 60)
    return {
        "pause": "pause",
        "resume": "resume",
        "ban": f"ban of {request.of} {request.subject}",
        "unban": f"no more ban of {request.of} {request.subject}",
        "pin": f"{request.subject} as parent of one slot in {request.every}",
        "unpin": f"{request.subject} as parent no more",
        "prompt": f"prompt {request.subject} {'by hand' if request.text else 'as it came'}",
        "idea": f"idea: {text}",
        "program": f"program {request.subject}".rstrip(),
    }[request.kind]
