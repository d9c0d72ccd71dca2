"""A client that gives every call the answer it had in an earlier campaign, so that the campaign can be run again."""

from __future__ import annotations

from pathlib import Path

from arch_search.agents.call_log import CallLog, prompt_text
from arch_search.errors import ConfigError, ModelServerError
from arch_search.paths import CampaignPaths
from arch_search.protocols import ModelReply, ModelRequest
from cognition_db.records import sha256_text


class ReplayClient:
    """A ModelClient without a model: calls are found by their keys, and must ask what was asked then.

    Raises:
        ConfigError: the folder holds no answered call.
    """

    def __init__(self, folder: Path, log: CallLog) -> None:
        paths = CampaignPaths(folder)
        self._folder = folder
        self._recorded = CallLog(paths.calls, paths.text)
        self._log = log
        if not self._recorded.calls():
            raise ConfigError(
                f"llm.recording={folder}: no campaign with answered calls; name the folder that holds campaign.json"
            )

    def complete(self, request: ModelRequest) -> ModelReply:
        """The reply of then.

        Raises:
            ReplyError: the server refused the request then.
            ModelServerError: this call was not answered then, or asked something else.
        """
        known = self._log.find(request.key)
        if known is not None:
            return known
        call = self._recorded.call(request.key)
        if call is None:
            raise ModelServerError(f"{request.key}: this call was not asked in {self._folder}, so it has no answer")
        here = sha256_text(prompt_text(request))
        if call.prompt_sha256 != here:
            raise ModelServerError(
                f"{request.key}: the prompt is another than in {self._folder} (sha256 {call.prompt_sha256[:12]} there, "
                f"{here[:12]} here); run it again with the same settings, prompts and version of arch_search"
            )
        if call.refused:
            raise self._log.refuse(request, call.refused)
        reply = self._recorded.find(request.key)
        if reply is None:
            raise ModelServerError(f"{request.key}: the text of the reply is lost or damaged in {self._folder}")
        self._log.record(request, reply)
        return reply
