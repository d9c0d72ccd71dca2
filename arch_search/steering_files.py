"""Requests as files: `steering/<number>-<kind>.json`, sealed, put there by any process and never changed."""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arch_search.campaign import Campaign
from arch_search.generation import read_steering
from arch_search.paths import CampaignPaths
from arch_search.steering import Request, pause_of
from cognition_db.experience.errors import StoreError
from cognition_db.experience.files import read_json, sync_folder, write_atomic
from cognition_db.experience.seal import is_seal, seal
from cognition_db.records import canonical_json, from_json, sha256_text, to_json

_NAME = re.compile(r"(\d{4,})-([a-z]+)\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What is on file: `valid` by number, `files` the sha256 of each of them, `refused` a line on each other one."""

    valid: tuple[Request, ...]
    refused: tuple[str, ...]
    files: dict[str, str]


def ask(campaign: Campaign, request: Mapping[str, Any]) -> Request:
    """Put a request on file, under the next number; it is durable when this returns. Needs no lease."""
    folder = campaign.paths.steering
    fresh = folder / f".{secrets.token_hex(8)}.json"
    while True:
        taken = [int(match[1]) for match in _names(campaign.paths)]
        made = Request(**request, number=1 + max(taken, default=0), unix=time.time(), host=socket.gethostname())
        body = to_json(made)
        write_atomic(fresh, canonical_json({"request": body, "seal": _seal(campaign, body)}).encode())
        try:
            # a name that another command has taken meanwhile is left to it
            os.link(fresh, folder / _name(made))
        except FileExistsError:
            continue
        finally:
            fresh.unlink()
        sync_folder(folder)
        return made


def read_requests(campaign: Campaign) -> Requests:
    """All requests; a file that is none of this campaign is left out."""
    requests, refused, files = [], [], {}
    for match in _names(campaign.paths):
        file = campaign.paths.steering / match[0]
        try:
            requests.append(_request(campaign, file))
            files[match[0]] = sha256_text(file.read_text())
        except StoreError as error:
            refused.append(str(error))
    return Requests(valid=tuple(sorted(requests, key=lambda one: one.number)), refused=tuple(refused), files=files)


def paused_words(campaign: Campaign) -> str:
    """Why nothing new is begun; empty where no request holds the campaign."""
    if not any(match[2] == "pause" for match in _names(campaign.paths)):
        return ""
    held = pause_of(read_requests(campaign).valid)
    if held is None:
        return ""
    return f"paused by hand (request {held.number}); arch-search steer {campaign.paths.root} resume goes on"


def place_prompts(campaign: Campaign, number: int) -> None:
    """Put the prompts that hold for a generation where the roles look for them, and take others of ours away."""
    held = {prompt.name: prompt.text for prompt in read_steering(campaign.generation(number)).prompts}
    ever = {
        prompt.name
        for earlier in range(campaign.config.campaign.generations + 1)
        for prompt in read_steering(campaign.generation(earlier)).prompts
    }
    for name in sorted(ever):
        file = campaign.paths.prompts / f"{name}.md"
        if name not in held:
            file.unlink(missing_ok=True)
        elif not file.exists() or file.read_text() != held[name]:
            write_atomic(file, held[name].encode())


def used_gifts(campaign: Campaign, number: int) -> Iterator[int]:
    """Numbers of the ideas and programs that generations before `number` were given."""
    for earlier in range(1, number):
        steering = read_steering(campaign.generation(earlier))
        yield from (gift.request for gift in (*steering.ideas, *steering.programs))


def _request(campaign: Campaign, file: Path) -> Request:
    """StoreError, in one line, for a file that is no request of this campaign under its own name."""
    data = read_json(file)
    try:
        body, found = data["request"], data["seal"]
        request = from_json(Request, body)
    except (ValidationError, TypeError, KeyError):
        raise StoreError(f"{file}: no steering request; it is left out") from None
    if not isinstance(found, str) or not is_seal(found, _seal(campaign, body)):
        raise StoreError(f"{file}: without the seal of this campaign; it is left out")
    if file.name != _name(request):
        raise StoreError(f"{file}: holds the request {_name(request)}; it is left out")
    return request


def _seal(campaign: Campaign, body: Any) -> str:
    text = canonical_json(body)
    # campaigns older than secrets have none
    return seal(campaign.secret, "steering", text) if campaign.secret else sha256_text(text)


def _name(request: Request) -> str:
    return f"{request.number:04d}-{request.kind}.json"


def _names(paths: CampaignPaths) -> list[re.Match[str]]:
    """The folder is listed: a client of NFS may keep old answers about single names."""
    names = sorted(os.listdir(paths.steering)) if paths.steering.is_dir() else []
    return [match for name in names if (match := _NAME.fullmatch(name))]
