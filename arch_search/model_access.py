"""Whatever answers as the language model: started when it is first needed, found again, stopped at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OneServer, OpenAiClient
from arch_search.agents.recorded import RecordedClient
from arch_search.agents.replay import ReplayClient
from arch_search.agents.routing import RoutedClient
from arch_search.batch_client import BatchClient
from arch_search.campaign import Campaign
from arch_search.config import LlmEndpoint
from arch_search.errors import ModelServerError
from arch_search.fleet import Fleet
from arch_search.generation import slot_plans
from arch_search.protocols import ModelClient
from arch_search.serving import server
from arch_search.serving.endpoint import Endpoint, foreign_endpoint

_LOOK_S = 0.5


class ModelAccess:
    """The model of one campaign.

    `pump` is called while the server loads, so that trainings go on meanwhile; `require` raises where this driver may
    not submit any more, `require_going` also where it is asked to end. `comes_back`: this driver does not wait for a
    batch of requests, see BatchClient.
    """

    def __init__(
        self,
        campaign: Campaign,
        call_log: CallLog,
        *,
        say: Callable[[str], None],
        pump: Callable[[], None],
        require: Callable[[], None] = lambda: None,
        require_going: Callable[[], None] = lambda: None,
        comes_back: bool = False,
    ) -> None:
        self._paths = campaign.paths
        self._llm = campaign.config.llm
        self._call_log = call_log
        self._say = say
        self._pump = pump
        self._require_going = require_going
        self._serving: server.ServerProcess | None = None
        self._fleet = Fleet(campaign, say=say, require=require) if self._llm.kind == "vllm_job" else None
        self._client: ModelClient | None = None
        further = {name: self._client_of(one) for name, one in self._llm.endpoints.items()}
        self._by_role = {role: further[name] for role, name in self._llm.roles.items()}
        self.is_asked = any(plan.asks_model for plan in slot_plans(campaign.config))
        if self._llm.kind == "recorded" and self._llm.recording:
            recording = Path(self._llm.recording).expanduser()
            replays = recording.is_dir()
            self._client = ReplayClient(recording, call_log) if replays else RecordedClient(recording, call_log)
        if self._llm.kind == "vllm_batch":
            self._client = BatchClient(campaign, call_log, say=say, comes_back=comes_back)

    def begin(self) -> None:
        """Let it load while other work is done; returns at once."""
        if not self.is_asked or self._client is not None:
            return
        if self._fleet is not None:
            self._fleet.start()
        else:
            self._launched()

    def client(self) -> ModelClient:
        """The client of the configured models; waits, with trainings going on, until our own server is ready."""
        return RoutedClient(self._own_client(), self._by_role) if self._by_role else self._own_client()

    def _own_client(self) -> ModelClient:
        if self._fleet is not None:
            self._wait_for(self._fleet)
            self._client = self._client or OpenAiClient(self._fleet, llm=self._llm, log=self._call_log)
        elif self._client is None:
            servers = OneServer(self._ready(), self._restarted)
            self._client = OpenAiClient(servers, llm=self._llm, log=self._call_log)
        return self._client

    def waiting(self) -> str:
        """What the model server waits for, for a driver that would rather come back than wait; empty when it answers.

        Only a server that is a job is waited for in this way; the first call submits it.
        """
        if self._fleet is None:
            return ""
        self._fleet.start()
        return self._fleet.waiting()

    def tend(self) -> None:
        """Look after servers that are jobs, as a tick does that asks nothing: an idle one is released."""
        if self._fleet is not None:
            self._fleet.tend()

    def release(self) -> None:
        """Nothing is left to ask: servers that are jobs are ended and their GPUs given back."""
        if self._fleet is not None:
            self._fleet.release()

    def stop(self) -> None:
        """Stop the server this campaign started; another's server (llm=endpoint) is left alone."""
        self.release()
        self.hand_over()

    def hand_over(self) -> None:
        """Stop what dies with this driver and leave servers that are jobs to the next one."""
        if self._fleet is not None:
            self._fleet.stop()
        if self._llm.kind == "vllm":
            server.stop(self._paths.endpoint)
        self._serving = None

    def _client_of(self, further: LlmEndpoint) -> OpenAiClient:
        """The client of a server that is not ours; it is neither started nor waited for."""
        endpoint = foreign_endpoint(further.base_url, further.model, further.api_key_env, os.environ)
        return OpenAiClient(OneServer(endpoint), llm=self._llm, log=self._call_log)

    def _wait_for(self, fleet: Fleet) -> None:
        """Until a server of the fleet gives tokens; no GPU is held while it waits in the queue."""
        fleet.start()
        began = next_pump = time.monotonic()
        while fleet.waiting():
            if time.monotonic() >= next_pump:
                self._pump()
                next_pump = time.monotonic() + 1
            time.sleep(_LOOK_S)
        if time.monotonic() - began > 1:
            self._say(f"model server ready, waited {time.monotonic() - began:.0f} s")

    def _ready(self) -> Endpoint:
        """The server's address; one that dies while it loads is started once more."""
        try:
            return server.wait_ready(self._launched(), self._llm, say=self._say, pump=self._pump)
        except ModelServerError as error:
            if self._llm.kind != "vllm":
                raise
            self._say(f"{error}; starting it once more")
            self._serving = None
            return server.wait_ready(self._launched(), self._llm, say=self._say, pump=self._pump)

    def _launched(self) -> server.ServerProcess:
        """The server, loading or ready; started at the first call."""
        if self._serving is None:
            self._serving = server.launch(
                self._llm,
                endpoint_file=self._paths.endpoint,
                key_file=self._paths.endpoint_key,
                log_file=self._paths.server_log,
                say=self._say,
                # a call that breaks because the server is ended must not start another
                require=self._require_going,
            )
        return self._serving

    def _restarted(self) -> Endpoint | None:
        """Called by the client when the server is down."""
        self._serving = None
        return server.wait_ready(self._launched(), self._llm, say=self._say)
