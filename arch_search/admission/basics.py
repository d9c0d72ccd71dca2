"""The first questions: does it build, keep the shape at every length, stay finite, and can it be trained?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from arch_search.admission.request import Request
from arch_search.admission.subject import Subject, call, draw, is_finite
from arch_search.models.mounting import Mount
from cognition_db.records import Verdict

_BATCHES = (1, 3)
# a forward pass at the size of the stage costs seconds above this on one core
_MAX_STAGE_ELEMENTS = 2**18


def check_outputs(subject: Subject, lengths: Sequence[int]) -> tuple[Verdict, ...]:
    """Verdict `outputs`: [B, T, D] to [B, T, D], finite, at every length and in both modes."""
    for train in (False, True):
        module = subject.build().train(train)
        for T in sorted(set(lengths)):
            for B in _BATCHES:
                if not is_finite(call(module, draw(B, T, subject.d_model, seed=T), grad=False)):
                    return (_refused("outputs", f"NaN or infinite output at B = {B}, T = {T}"),)
    tested = ", ".join(map(str, sorted(set(lengths))))
    return (Verdict(check="outputs", outcome="passed", reason=f"right shape and finite at T = {tested}"),)


def check_gradients(subject: Subject, lengths: Sequence[int]) -> tuple[Verdict, ...]:
    """Verdicts `gradients` (not finite refuses) and `unused_parameters` (a mark)."""
    unused: list[str] = []
    for T in sorted(set(lengths)):
        module = subject.build().train()
        x = draw(2, T, subject.d_model, seed=T).requires_grad_()
        output = call(module, x, grad=True)
        if output.requires_grad:
            weights = draw(2, T, subject.d_model, seed=T + 1).to(output.dtype)
            (output * weights).sum().backward()  # type: ignore[no-untyped-call]
        gradients = {"the input": x.grad} | {name: parameter.grad for name, parameter in module.named_parameters()}
        for name, gradient in gradients.items():
            if gradient is not None and not is_finite(gradient):
                return (_refused("gradients", f"NaN or infinite gradient of {name} at T = {T}"),)
        unused = [name for name, gradient in gradients.items() if gradient is None and name != "the input"]
    finite = Verdict(check="gradients", outcome="passed", reason="finite for the input and every parameter")
    if not unused:
        return finite, Verdict(check="unused_parameters", outcome="passed", reason="every parameter has a gradient")
    reason = f"{len(unused)} parameters get no gradient: {', '.join(unused[:5])}"
    return finite, Verdict(check="unused_parameters", outcome="failed", reason=reason)


def check_parameters(mixer: type[nn.Module], request: Request) -> tuple[int, Verdict]:
    """Parameter count of the matched model of the stage, and verdict `parameters` (a mark where matching fails)."""
    stage = request.stage
    torch.manual_seed(0)
    mount = Mount(program=mixer, contract=request.contract, stage=stage, vocab=request.vocab)
    matched = mount.matched(request.target_parameters)
    off = matched.relative_difference
    fits = abs(off) <= stage.parameter_tolerance
    against = f"{off:+.1%} against the reference" if request.target_parameters else "nothing to match"
    reason = f"{matched.parameter_count} parameters, {against}"
    evidence = {"parameter_count": matched.parameter_count, "feed_forward": matched.feed_forward}
    verdict = Verdict(check="parameters", outcome="passed" if fits else "failed", reason=reason, evidence=evidence)
    return matched.parameter_count, verdict


def check_stage(mixer: type[nn.Module], request: Request) -> tuple[Verdict, ...]:
    """Verdict `stage`: the module runs at the sizes at which it will be trained; raises what the program does."""
    stage, recall = request.stage, request.stage.recall
    sizes = {(stage.d_model, stage.n_heads, stage.seq_len)}
    if "recall" in request.contract.probes:
        sizes.add((recall.d_model, recall.n_heads, recall.writes * 2 + recall.keys))
    for d_model, n_heads, T in sorted(sizes):
        if d_model * T > _MAX_STAGE_ELEMENTS:
            continue
        subject = Subject(mixer=mixer, d_model=d_model, n_heads=n_heads)
        if not is_finite(call(subject.build().train(), draw(2, T, d_model, seed=T), grad=True)):
            return (_refused("stage", f"NaN or infinite output at d_model = {d_model}, T = {T}, its size in training"),)
    return (Verdict(check="stage", outcome="passed", reason="runs at its sizes in training"),)


def _refused(check: str, reason: str) -> Verdict:
    return Verdict(check=check, outcome="failed", reason=reason, refuses=True)
