"""Where admission checks run: on the driver's host, two at a time, or as work units of the launcher."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from arch_search.admission.__main__ import order_file, report_file
from arch_search.admission.runner import AdmissionOrder, AdmissionReport, admit
from arch_search.campaign import Campaign
from arch_search.dispatch import ENDED
from arch_search.errors import JailError
from arch_search.launching import module_command, worker_environment
from cognition_db.experience.files import read_json, write_atomic
from cognition_db.records import canonical_json, from_json, sha256_text, to_json
from slurm.launchers import Launcher
from slurm.units import Evidence, Order, WorkUnit

_AT_ONCE = 2


class Admitter:
    """Answers admission orders in their order; `pump` is called about once a second meanwhile."""

    def __init__(self, campaign: Campaign, launcher: Launcher, pump: Callable[[], None]) -> None:
        self._campaign = campaign
        self._launcher = launcher
        self._pump = pump

    def admit_all(self, number: int, orders: Sequence[AdmissionOrder]) -> Iterator[AdmissionReport]:
        """One report per order, each as soon as it and those before it are there."""
        if not orders:
            return iter(())
        if self._campaign.config.admission.where == "job":
            return self._as_jobs(number, orders)
        return self._on_this_host(number, orders)

    def _on_this_host(self, number: int, orders: Sequence[AdmissionOrder]) -> Iterator[AdmissionReport]:
        workdir = self._campaign.paths.jail_tmp / f"g{number:04d}"
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            for waiting in [pool.submit(admit, order, workdir=workdir) for order in orders]:
                while wait([waiting], timeout=1.0).not_done:
                    self._pump()
                yield waiting.result()

    def _as_jobs(self, number: int, orders: Sequence[AdmissionOrder]) -> Iterator[AdmissionReport]:
        """One submission for all orders. The same orders have the same folder, so a killed driver finds the reports."""
        digest = sha256_text(canonical_json([to_json(order) for order in orders]))[:16]
        folder = self._campaign.paths.jail_tmp / f"g{number:04d}-{digest}"
        for index, order in enumerate(orders):
            if not order_file(folder, index).exists():
                write_atomic(order_file(folder, index), json.dumps(to_json(order)).encode())
        units = tuple(WorkUnit(name=f"a{digest}-{index}", index=index) for index in range(len(orders)))
        submission = self._launcher.submit(
            Order(
                units=units,
                command=lambda index: module_command(
                    self._campaign.config.slurm,
                    [self._campaign.paths.root],
                    "arch_search.admission",
                    *(str(folder), str(index)),
                ),
                folder=folder,
                name=f"asx-{self._campaign.config.campaign.name}-admit",
                comment=f"asx-{self._campaign.uuid}-admit-{digest}",
                environment=worker_environment(1),
            )
        )

        def probe(unit: str) -> Evidence:
            return Evidence(done=report_file(folder, int(unit.rpartition("-")[2])).exists())

        while not all(state in ENDED for state in self._launcher.states(submission, units, probe).values()):
            self._pump()
            time.sleep(self._campaign.config.slurm.poll_s)
        for index in range(len(orders)):
            yield self._report(folder, index, self._launcher.notes(submission))
        shutil.rmtree(folder, ignore_errors=True)

    def _report(self, folder: Path, index: int, notes: dict[str, str]) -> AdmissionReport:
        file = report_file(folder, index)
        if not file.exists():
            reason = next(iter(notes.values()), "no reason given")
            raise JailError(f"admission job {index} gave no report ({reason}); its files are in {folder}")
        return from_json(AdmissionReport, read_json(file))
