"""The base of our dispatch modes, which see every operator that a program runs."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """One that torch's compiler may look into: to keep it out, torch would import it, half of a child's start."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
