"""Roles that are played by different models: each request goes to the client of its role."""

from __future__ import annotations

from collections.abc import Mapping

from arch_search.protocols import ModelClient, ModelReply, ModelRequest


class RoutedClient:
    """A ModelClient of several; roles that are not named go to `default`."""

    def __init__(self, default: ModelClient, by_role: Mapping[str, ModelClient]) -> None:
        self._default = default
        self._by_role = by_role

    def complete(self, request: ModelRequest) -> ModelReply:
        """The reply of the model that plays the role; raises what its client raises."""
        return self._by_role.get(request.role, self._default).complete(request)
