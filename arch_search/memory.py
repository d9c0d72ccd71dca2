"""What a campaign remembers of its programs: what a new one must not repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arch_search.admission import runner
from arch_search.config import Admission
from arch_search.generation import admitted
from arch_search.proposals import fingerprint
from cognition_db.records import WRITTEN_ARMS, Candidate, SlotTry, Verdict


@dataclass(frozen=True, slots=True)
class Known:
    """Programs of the campaign so far."""

    normal_forms: dict[str, str]
    fingerprints: dict[str, tuple[float, ...]]

    @staticmethod
    def of(candidates: Sequence[Candidate]) -> Known:
        originals = [candidate for candidate in candidates if candidate.arm != "placebo"]
        return Known(
            normal_forms={fingerprint.normal_form(one.program): one.id for one in originals},
            fingerprints={one.id: one.fingerprint for one in originals if one.fingerprint},
        )


def is_ours(arm: str) -> bool:
    """Whether the program was made for this campaign, so that a repetition is worth nothing."""
    return arm in (*WRITTEN_ARMS, "mutate", "hand")


def distinct(tried: SlotTry, decided: Sequence[SlotTry], settings: Admission) -> SlotTry:
    """Refuse what an earlier slot of the same round already is; baselines and placebos may repeat."""
    candidate = tried.candidate
    if candidate is None or not is_ours(candidate.arm):
        return tried
    known = Known.of(admitted(decided))
    same = known.normal_forms.get(fingerprint.normal_form_or_empty(candidate.program))
    if same:
        verdict = Verdict(check="duplicate", outcome="failed", reason=f"the same program as {same}", refuses=True)
    else:
        verdict = runner.same_behaviour(
            candidate.fingerprint, known.fingerprints, distance=settings.duplicate_distance, own_rung=True
        )
    if not verdict.refuses:
        return tried
    return replace(tried, verdicts=(*tried.verdicts, verdict), candidate=None)
