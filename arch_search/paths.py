"""Every path of a campaign folder. Nothing else in the project builds one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CampaignPaths:
    """
    campaign.json            resolved configuration, uuid, versions; written once
    journal.jsonl            acknowledgements, CRC-framed; written by the driver that holds the lease
    driver/lease-00000003.json  who drives the campaign; the highest number counts
    driver/stop.json         request to end, until `run` or `submit` goes on
    steering/0003-ban.json   one request of `arch-search steer` or `propose`; never changed
    driver/secret            what seals the records (mode 600); no program in the jail can read it
    driver/chain.json, jobs/ the driver as a job: number of the newest one, and its files
    prompts/<name>.md        this campaign's own wording of a prompt
    calls.jsonl              one line per call of the language model; texts by hash in texts/
    texts/ab/<sha256>.txt.gz prompts and replies, named by the sha256 of the plain text
    servers/r0-0001/         one model server that is a Slurm job: replica 0, its first
    batches/0001/            one offline batch job of requests to the model
    judge/<model>.json       marks of one model for all known pairs of programs
    endpoint.json, key       address and key (mode 600) of the model server this campaign started
    gen-0001/steering.json      what of the requests holds for it; written when it is opened
    gen-0001/slots/003-0.json   one try at one slot (SlotTry)
    gen-0001/lessons/<id>.json  one Lesson per candidate
    gen-0001/programs/<id>.py   program text as the worker reads it
    gen-0001/manifest-001.json  what the array elements of one submission round run; immutable
    gen-0001/submission-001.json  intent, then job ids and what each element holds
    gen-0001/repeats.json       who is trained again, and with which hidden seeds; written once all others were
    gen-0001/summaries.json  what was learned so far, of the campaign and of the lineages that grew
    gen-0001/toolbox.json    what its programs offered to the toolbox, and what entered it
    gen-0001/canaries.json   marks of the Judge for two known programs
    gen-0001/spent.json      hours its units used; written when the generation is closed
    gen-0001/units/<unit>/      working files of one unit: lock, progress, checkpoints
    gen-0001/shards/<unit>-a1.h5
    sighting.json            what the driver last saw of its arrays
    slurm/                   calls of squeue and sacct and their answers, shared by all programs of the campaign
    results.json             the ranking in numbers, beside report.html
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
    def driver(self) -> Path:
        """Folder of the lease, the secret, the stop request and the driver's jobs."""
        return self.root / "driver"

    @property
    def steering(self) -> Path:
        return self.root / "steering"

    @property
    def secret(self) -> Path:
        return self.driver / "secret"

    @property
    def prompts(self) -> Path:
        return self.root / "prompts"

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
    def servers(self) -> Path:
        return self.root / "servers"

    @property
    def servers_released(self) -> Path:
        """Empty; while it is there, no driver submits another server."""
        return self.servers / "released"

    def server(self, name: str) -> ServerPaths:
        return ServerPaths(self.servers / name)

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    def batch(self, number: int) -> BatchPaths:
        return BatchPaths(self.batches / f"{number:04d}")

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
    def sighting(self) -> Path:
        return self.root / "sighting.json"

    @property
    def slurm_calls(self) -> Path:
        return self.root / "slurm"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

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

    @property
    def calibrations(self) -> Path:
        return self.root / "judge"

    def calibration(self, model: str) -> Path:
        return self.calibrations / f"{model}.json"

    def generation(self, number: int) -> GenerationPaths:
        return GenerationPaths(self.root / f"gen-{number:04d}")


@dataclass(frozen=True, slots=True)
class GenerationPaths:
    root: Path

    @property
    def campaign(self) -> CampaignPaths:
        return CampaignPaths(self.root.parent)

    @property
    def steering(self) -> Path:
        return self.root / "steering.json"

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
    def repeats(self) -> Path:
        return self.root / "repeats.json"

    @property
    def summaries(self) -> Path:
        return self.root / "summaries.json"

    @property
    def toolbox(self) -> Path:
        return self.root / "toolbox.json"

    @property
    def canaries(self) -> Path:
        return self.root / "canaries.json"

    @property
    def spent(self) -> Path:
        return self.root / "spent.json"

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
    def packed_units(self) -> Path:
        """What `units` held, once the generation is closed."""
        return self.root / "units.zip"

    @property
    def packed_shards(self) -> Path:
        """What `shards` held, once the generation is closed."""
        return self.root / "shards.zip"

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

    def claim(self, start: str) -> Path:
        """Empty; made by the supervisor of this start. The newest start of the newest attempt owns the unit."""
        return self.root / f"start-{start}"

    def task(self, key: str) -> Path:
        """What a task needs until its Evaluation is there: the ledger of its starts and their working folders."""
        return self.root / key

    def ledger(self, key: str, start: str) -> Path:
        """How far the task came in this start; survives attempts."""
        return self.task(key) / f"{start}.json"

    def working(self, key: str, start: str) -> Path:
        """Working folder of one task in one start, the only place its child may write."""
        return self.task(key) / start

    def evaluation(self, key: str) -> Path:
        """Finished Evaluation of one task, waiting for the shard."""
        return self.root / f"{key}.json"


@dataclass(frozen=True, slots=True)
class ServerPaths:
    """One model server in a Slurm job. The driver writes `order` and `over`, the job all the rest."""

    root: Path

    @property
    def order(self) -> Path:
        """Settings of the model; written before the job is submitted."""
        return self.root / "order.json"

    @property
    def over(self) -> Path:
        """Why the driver is done with the server; it is never looked at again."""
        return self.root / "over.json"

    @property
    def endpoint(self) -> Path:
        """Address and time of its end; written once a token came back."""
        return self.root / "endpoint.json"

    @property
    def key(self) -> Path:
        return self.root / "key"

    @property
    def process(self) -> Path:
        """The process on the node, for the job itself."""
        return self.root / "process.json"

    @property
    def ended(self) -> Path:
        """Why the job ended, in its own words."""
        return self.root / "ended.json"

    @property
    def log(self) -> Path:
        return self.root / "server.log"


@dataclass(frozen=True, slots=True)
class BatchPaths:
    """One batch of requests, answered by a job that serves the model to itself."""

    root: Path

    @property
    def server(self) -> ServerPaths:
        return ServerPaths(self.root)

    @property
    def requests(self) -> Path:
        """The requests; written before the job is submitted."""
        return self.root / "requests.json"

    @property
    def calls(self) -> Path:
        """Replies as they come, in the form of the campaign's call log."""
        return self.root / "calls.jsonl"

    @property
    def refused(self) -> Path:
        """Requests that the server refuses, with its words."""
        return self.root / "refused.json"

    def text(self, sha256: str) -> Path:
        return self.root / "texts" / sha256[:2] / f"{sha256}.txt"

    def attempt(self, number: int) -> Path:
        """How one job for the batch went, in its own words."""
        return self.root / f"attempt-{number}.json"
