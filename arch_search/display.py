"""What a person sees while a campaign runs: one line per event, and a live panel where there is a terminal."""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from arch_search.campaign import Campaign
from arch_search.clean_text import clean
from arch_search.driver import Driver
from arch_search.reporting import Progress, progress_of

_REFRESH_S = 2.0


class Display:
    """Prints events as they come; on a terminal a panel below them shows where the campaign stands."""

    def __init__(self, campaign: Campaign, stream: TextIO) -> None:
        self._campaign = campaign
        self._console = Console(file=stream, highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._driver: Driver | None = None
        self._drawn_at = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def follow(self, driver: Driver) -> None:
        """Redraw whenever the driver says that something changed."""
        self._driver = driver
        driver.on_change = self._redraw
        self.say(f"campaign {self._campaign.config.campaign.name} in {self._campaign.paths.root}")

    def say(self, event: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {clean(event)}"
        self._console.print(line)
        # the screen has the line; a disk that takes no more must not end the driver over its log
        with suppress(OSError):
            self._campaign.paths.driver_log.parent.mkdir(parents=True, exist_ok=True)
            with self._campaign.paths.driver_log.open("a", encoding="utf-8") as log:
                log.write(line + "\n")

    def _redraw(self) -> None:
        if self._live is None or self._driver is None or time.monotonic() - self._drawn_at < _REFRESH_S:
            return
        self._drawn_at = time.monotonic()
        driver = self._driver
        progress = progress_of(self._campaign, driver.dispatcher, activity=driver.activity, calls=driver.call_log)
        self._live.update(panel(progress), refresh=True)


def panel(progress: Progress) -> Table:
    """The live panel: generation, tasks by state, model speed, best so far with its interval, budget, time left."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("now", progress.activity)
    table.add_row("generation", f"{progress.generation} of {progress.generations}")
    table.add_row("trainings", progress.units or "none running")
    table.add_row("model", progress.model)
    table.add_row("best so far", progress.best)
    table.add_row("budget", progress.budget)
    table.add_row("time", f"{_minutes(progress.elapsed_s)} gone, {progress.left}")
    return table


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
