"""Whatever answers as the language model: started when it is first needed, found again, stopped at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arch_search.agents.call_log import CallLog
from arch_search.agents.client import OpenAiClient
from arch_search.agents.recorded import RecordedClient
from arch_search.campaign import Campaign
from arch_search.errors import ModelServerError
from arch_search.generation import slot_plans
from arch_search.protocols import ModelClient
from arch_search.serving import server
from arch_search.serving.endpoint import Endpoint


class ModelAccess:
    """The model of one campaign. `pump` is called while the server loads, so that trainings go on meanwhile."""

    def __init__(
        self, campaign: Campaign, call_log: CallLog, *, say: Callable[[str], None], pump: Callable[[], None]
    ) -> None:
        self._paths = campaign.paths
        self._llm = campaign.config.llm
        self._call_log = call_log
        self._say = say
        self._pump = pump
        self._serving: server.ServerProcess | None = None
        self._client: ModelClient | None = None
        self.is_asked = any(plan.arm == "evolve" for plan in slot_plans(campaign.config))
        if self._llm.kind == "recorded" and self._llm.recording:
            self._client = RecordedClient(Path(self._llm.recording), call_log)

    def begin(self) -> None:
        """Let it load while other work is done; returns at once."""
        if self.is_asked and self._client is None:
            self._launched()

    def client(self) -> ModelClient:
        """The client of the configured model; waits, with trainings going on, until the server is ready."""
        if self._client is None:
            self._client = OpenAiClient(self._ready(), llm=self._llm, log=self._call_log, on_down=self._restarted)
        return self._client

    def stop(self) -> None:
        """Stop the server this campaign started; another's server (llm=endpoint) is left alone."""
        if self._llm.kind == "vllm":
            server.stop(self._paths.endpoint)
        self._serving = None

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
            )
        return self._serving

    def _restarted(self) -> Endpoint | None:
        """Called by the client when the server is down."""
        self._serving = None
        return server.wait_ready(self._launched(), self._llm, say=self._say)
