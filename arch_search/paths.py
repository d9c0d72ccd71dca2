"""Every path of a campaign folder. Nothing else in the project builds one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CampaignPaths:
    """
    campaign.json            resolved configuration, uuid, versions; written once
    journal.jsonl            acknowledgements, CRC-framed; written by the driver that holds driver.lock
    driver.lock              lease of the driver
    calls.jsonl              one line per call of the language model; texts by hash in texts/
    texts/ab/<sha256>.txt    prompts and replies
    endpoint.json, key       address and key (mode 600) of the model server this campaign started
    gen-0001/slots/003-0.json   one try at one slot (SlotTry)
    gen-0001/lessons/<id>.json  one Lesson per candidate
    gen-0001/programs/<id>.py   program text as the worker reads it
    gen-0001/manifest-001.json  what the array elements of one submission round run; immutable
    gen-0001/submission-001.json  intent, then job ids
    gen-0001/units/<unit>/      working files of one unit: lock, progress, checkpoints
    gen-0001/shards/<unit>-a1.h5
    archive.h5               all closed generations, rewritten whole at each merge
    report.html
    """

    root: Path

    @property
    def campaign_json(self) -> Path:
        return self.root / "campaign.json"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def driver_lock(self) -> Path:
        return self.root / "driver.lock"

    @property
    def calls(self) -> Path:
        return self.root / "calls.jsonl"

    @property
    def endpoint(self) -> Path:
        return self.root / "endpoint.json"

    @property
    def endpoint_key(self) -> Path:
        return self.root / "key"

    @property
    def server_log(self) -> Path:
        return self.root / "logs" / "server.log"

    @property
    def driver_log(self) -> Path:
        return self.root / "logs" / "driver.log"

    @property
    def archive(self) -> Path:
        return self.root / "archive.h5"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def jail_tmp(self) -> Path:
        return self.root / "jail"

    def text(self, sha256: str) -> Path:
        return self.root / "texts" / sha256[:2] / f"{sha256}.txt"

    def generation(self, number: int) -> GenerationPaths:
        return GenerationPaths(self.root / f"gen-{number:04d}")


@dataclass(frozen=True, slots=True)
class GenerationPaths:
    root: Path

    @property
    def slots(self) -> Path:
        return self.root / "slots"

    def slot_try(self, slot: int, attempt: int) -> Path:
        return self.slots / f"{slot:03d}-{attempt}.json"

    @property
    def lessons(self) -> Path:
        return self.root / "lessons"

    def lesson(self, candidate_id: str) -> Path:
        return self.lessons / f"{candidate_id}.json"

    def program(self, candidate_id: str) -> Path:
        return self.root / "programs" / f"{candidate_id}.py"

    def manifest(self, round_number: int) -> Path:
        return self.root / f"manifest-{round_number:03d}.json"

    def submission(self, round_number: int) -> Path:
        return self.root / f"submission-{round_number:03d}.json"

    @property
    def units(self) -> Path:
        return self.root / "units"

    def unit(self, name: str) -> UnitPaths:
        return UnitPaths(self.units / name)

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    def shard(self, unit: str, attempt: int) -> Path:
        return self.shards / f"{unit}-a{attempt}.h5"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"


@dataclass(frozen=True, slots=True)
class UnitPaths:
    root: Path

    @property
    def lock(self) -> Path:
        """Held with flock by the supervisor while it lives: a second one for the same unit leaves at once."""
        return self.root / "lock"

    @property
    def heartbeat(self) -> Path:
        return self.root / "heartbeat.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    def task(self, key: str) -> Path:
        """Working folder of one task, the only place its child may write; survives attempts."""
        return self.root / key

    def evaluation(self, key: str) -> Path:
        """Finished Evaluation of one task, waiting for the shard."""
        return self.root / f"{key}.json"
