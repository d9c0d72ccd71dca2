"""The certificate once more, on the mixers of a model that was trained: weights may open what fresh ones keep shut."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from arch_search.admission.certificate.certify import check_certificate
from arch_search.admission.subject import Subject, affordable_length
from cognition_db.records import Certificate, Verdict

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained(Subject):
    """A mixer as training left it; every call works on a copy."""

    module: nn.Module

    def build(self, *, seed: int = 0) -> nn.Module:
        return deepcopy(self.module).cpu()


def certify_trained(mixers: Sequence[nn.Module], *, d_model: int, n_heads: int, seq_len: int) -> Certificate:
    """What tracking shows of trained `mixers`, one a layer, at `seq_len` or as much of it as memory allows.

    The worst of the layers counts. The program runs in this process, so this is its word as all that a child says.
    """
    started = time.process_time()
    T = affordable_length(seq_len, d_model)
    verdicts = []
    for layer, module in enumerate(mixers):
        subject = _Trained(mixer=type(module), d_model=d_model, n_heads=n_heads, layer_idx=layer, module=module)
        verdicts.append(_verdict(subject, T))
    order = ("failed", "unknown", "passed")
    layer, worst = min(enumerate(verdicts), key=lambda one: order.index(one[1].outcome))
    return Certificate(
        outcome=worst.outcome,
        reason=worst.reason if worst.outcome == "passed" else f"layer {layer}: {worst.reason}",
        length=T,
        layers=len(verdicts),
        operators=max(int(one.evidence.get("operators", 0)) for one in verdicts),
        seconds=time.process_time() - started,
    )


def _verdict(subject: Subject, T: int) -> Verdict:
    try:
        return check_certificate(subject, [T], _TOLERANCE)[0]
    # the model was measured before: what the tracker can't follow is no fault of the program
    except Exception as error:
        reason = f"the tracker does not follow: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Verdict(check="certificate", outcome="unknown", reason=reason)
