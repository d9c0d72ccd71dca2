"""Programs of a campaign that a new one must not repeat: in text, in what it changes, in what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from arch_search.admission import runner
from arch_search.config import Admission
from arch_search.generation import admitted, is_of_search
from arch_search.proposals import nearness
from arch_search.proposals.fingerprint import normal_form_or_empty
from cognition_db.records import Arm, Candidate, SlotTry, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is compared with: candidate ids by normal form, programs and fingerprints by id.

    `failures` says of the normal form of each failed program where it was tried and what became of it.
    """

    normal_forms: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    fingerprints: dict[str, tuple[float, ...]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(baselines: Sequence[Candidate], candidates: Sequence[Candidate], *, failures: Mapping[str, str]) -> Known:
        """All that is known before a round.

        `baselines` are those of generation 0, the reference first, from their tries: whether that generation is closed,
        so that they are among the `candidates` of the archive as well, must not change anything.
        """
        return Known(failures=failures).with_candidates([*baselines, *candidates])

    def with_candidates(self, candidates: Sequence[Candidate]) -> Known:
        """The same and these; placebos are copies by intent and left out."""
        originals = [candidate for candidate in candidates if candidate.arm != "placebo"]
        forms = {normal_form_or_empty(one.program): one.id for one in originals}
        forms.pop("", None)
        fingerprints = {one.id: one.fingerprint for one in originals if one.fingerprint}
        return replace(
            self,
            normal_forms={**forms, **self.normal_forms},
            programs={**self.programs, **{one.id: one.program for one in originals}},
            fingerprints={**self.fingerprints, **fingerprints},
        )


def is_ours(arm: Arm) -> bool:
    """Whether the program was made for this campaign, so that a repetition is worth nothing."""
    return arm == "hand" or is_of_search(arm)


def repeated_failure(normal_form: str, known: Known) -> Verdict | None:
    """The verdict that refuses a program which failed before; None where none did."""
    if not normal_form or normal_form not in known.failures:
        return None
    reason = f"repeats {known.failures[normal_form]}"
    return Verdict(check="duplicate_failure", outcome="failed", reason=reason, refuses=True)


def distinct(tried: SlotTry, known: Known, decided: Sequence[SlotTry], settings: Admission) -> SlotTry:
    """The try: refused where an earlier slot of its round is the same, else marked if its change is nearly known.

    Baselines and placebos may repeat; a program by hand may be nearly another one, as its author likes.
    """
    candidate = tried.candidate
    if candidate is None or not is_ours(candidate.arm):
        return tried
    round_ = Known().with_candidates(admitted(decided))
    same = round_.normal_forms.get(normal_form_or_empty(candidate.program))
    if same:
        verdict = Verdict(check="duplicate_text", outcome="failed", reason=f"the same program as {same}", refuses=True)
    else:
        verdict = runner.same_behaviour(
            candidate.fingerprint, round_.fingerprints, distance=settings.duplicate_distance, own_rung=True
        )
    if verdict.refuses:
        return replace(tried, verdicts=(*tried.verdicts, verdict), candidate=None)
    if not is_of_search(candidate.arm):
        return tried
    everything = replace(known, programs={**known.programs, **round_.programs})
    mark = near_duplicate(candidate.program, everything, threshold=settings.near_duplicate)
    marked = replace(candidate, verdicts=(*candidate.verdicts, mark))
    return replace(tried, verdicts=(*tried.verdicts, mark), candidate=marked)


def near_duplicate(program: str, known: Known, *, threshold: float) -> Verdict:
    """Whether the program is nearly an earlier one where they differ; a mark that does not refuse.

    Nearness of text does not tell nearness of behaviour: a decay of another speed is the same text but for a number.
    """
    alike = {key: nearness.alike(program, other) for key, other in known.programs.items()}
    twin = max(alike, key=alike.__getitem__, default="")
    if not twin:
        return Verdict(check="near_duplicate", outcome="passed", reason="no earlier program to compare with")
    return Verdict(
        check="near_duplicate",
        outcome="failed" if alike[twin] >= threshold else "passed",
        reason=f"nearest in text is {twin}, {alike[twin]:.0%} alike where they differ",
        evidence={"candidate_id": twin, "similarity": alike[twin]},
    )
