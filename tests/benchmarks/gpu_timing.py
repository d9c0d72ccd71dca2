"""Comparing and timing the variants of a kernel on one device: equality first, then all in turn, under a limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arch_search.models.time_limit import OutOfTimeError, time_limit
from kernels.dispatch import recorded_choices
from tests.benchmarks.gpu_rows import Function, Inputs, KernelRow, Line, Pass, Variant, Work

REPEATS = 9
WARM_UPS = 3
# a variant that is not compiled and compared by then is left out
PREPARE_LIMIT_S = 60.0
# a ratio of times that spread more than this (quartiles over median) is not printed
STEADY = 0.2
PASSES: dict[Pass, str] = {"forward": "forward", "both": "forward and backward"}

Seconds = Callable[[Callable[[], object]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Rates of this device, measured: a large copy (bytes read and written) and large matrix products, per second."""

    copy_bytes: float
    matrix_flops: float  # bfloat16 on random data
    vector_flops: float  # float32 without tf32

    def floor_s(self, work: Work) -> float:
        return max(
            work.bytes / self.copy_bytes,
            work.matrix_flops / self.matrix_flops,
            work.vector_flops / self.vector_flops,
        )


def measured(row: KernelRow, device: torch.device, variants: Sequence[Variant]) -> Iterator[Line]:
    """The lines of some variants of a kernel's row, first what could not be timed, then each pass."""
    seconds = stopwatch(device)
    ceilings = measure_ceilings(device, seconds)
    title = f"{row.name}, {row.shape}, {str(row.dtype).removeprefix('torch.')}"
    torch.manual_seed(0)
    inputs = row.make_inputs(device)
    ready: dict[str, Function] = {}
    expected = _Expected.of(row, inputs)
    for variant in variants:
        found, line = _prepared(row, variant, inputs, expected, title)
        if found is not None:
            ready[variant.name] = found
        if line is not None:
            yield line
    del expected
    for name, work in row.work.items():
        calls = {variant: _call(function, name, row, inputs) for variant, function in ready.items()}
        timed = interleaved(calls, seconds)
        times = {one.name: timed.get(one.name) for one in variants}
        yield from _lines(f"{title}, {PASSES[name]}", times, row.targets.get(name, {}), ceilings.floor_s(work))
    yield Line(
        row=title,
        variant="ceilings",
        note=f"copy {ceilings.copy_bytes / 1e12:.3g} TB/s, "
        f"bfloat16 product {ceilings.matrix_flops / 1e12:.3g} TFLOP/s, "
        f"float32 product {ceilings.vector_flops / 1e12:.3g} TFLOP/s",
    )


def interleaved(
    calls: dict[str, Callable[[], object]], seconds: Seconds, *, repeats: int = REPEATS
) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` times each in turn, so that a change of the device's clock meets all of them."""
    for call in calls.values():
        for _ in range(WARM_UPS):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def stopwatch(device: torch.device) -> Seconds:
    """Seconds that a call takes on the device, the caches emptied before.

    The buffer that empties them takes the device longer than the host needs to launch a few kernels, so that they are
    timed without the gaps between launches.
    """
    if device.type != "cuda":

        def on_host(call: Callable[[], object]) -> float:
            begun = time.perf_counter()
            call()
            return time.perf_counter() - begun

        return on_host
    flushed = torch.empty(1 << 30, dtype=torch.uint8, device=device)

    def on_gpu(call: Callable[[], object]) -> float:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flushed.zero_()
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1e3

    return on_gpu


def measure_ceilings(device: torch.device, seconds: Seconds) -> Ceilings:
    """Medians of a copy of 1 GiB and products of 8192 square matrices; small ones on a CPU, where they serve tests."""
    is_gpu = device.type == "cuda"
    size, count = (8192, 1 << 30) if is_gpu else (128, 1 << 20)
    source = torch.empty(count, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    narrow = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    wide = torch.randn(size // 2, size // 2, device=device)
    times = interleaved(
        {"copy": lambda: target.copy_(source), "matrix": lambda: narrow @ narrow, "vector": lambda: wide @ wide},
        seconds,
    )
    middle = {name: statistics.median(values) for name, values in times.items()}
    return Ceilings(
        copy_bytes=2 * count / middle["copy"],
        matrix_flops=2 * size**3 / middle["matrix"],
        vector_flops=2 * (size // 2) ** 3 / middle["vector"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """Outputs and gradients of the reference, and the gradients of the outputs that they follow from."""

    values: dict[str, Tensor]
    output_gradients: tuple[Tensor, ...]

    @classmethod
    def of(cls, row: KernelRow, inputs: Inputs) -> _Expected:
        wide = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
        with torch.no_grad():
            shapes = _tuple(row.reference(**wide))
        gradients = tuple(torch.randn_like(x) for x in shapes)
        del shapes
        return cls(values=_values(row.reference, row, wide, gradients), output_gradients=gradients)


def _prepared(
    row: KernelRow, variant: Variant, inputs: Inputs, expected: _Expected, title: str
) -> tuple[Function | None, Line | None]:
    """The variant where it is right, and what the table has to say of it before any time."""
    line = Line(row=title, variant=variant.name)
    try:
        with time_limit(PREPARE_LIMIT_S), recorded_choices() as choices:
            call = variant.make()
            wrong = _difference(call, row, inputs, expected)
            if not wrong and variant.name == "ours" and not _repeats(call, row, inputs, expected):
                wrong = "two runs on the same inputs differ"
            # a compiler makes another program of each pass
            for name in row.work:
                _call(call, name, row, inputs)()
    except ImportError as error:
        return None, _noted(line, f"not installed ({error.name or error})")
    except torch.OutOfMemoryError:
        return None, _noted(line, "out of memory")
    except OutOfTimeError:
        return None, _noted(line, f"not ready after {PREPARE_LIMIT_S:.0f} s, left out", fails=variant.name == "ours")
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        return None, _noted(line, f"failed: {type(error).__name__}: {words}", fails=variant.name == "ours")
    if wrong:
        return None, _noted(line, f"wrong, not timed: {wrong}", fails=variant.name == "ours")
    reasons = "; ".join(f"{one.operator} ran on {one.path}: {one.reason}" for one in choices if one.reason)
    return call, _noted(line, reasons, fails=variant.name == "ours") if reasons else None


def _difference(call: Function, row: KernelRow, inputs: Inputs, expected: _Expected) -> str:
    """The first output or gradient that is too far from the reference; empty where there is none."""
    _poison(expected, row.dtype)
    found = _values(call, row, inputs, expected.output_gradients)
    if found.keys() != expected.values.keys():
        return f"gives {', '.join(found)}, expected {', '.join(expected.values)}"
    for name, value in expected.values.items():
        if found[name].shape != value.shape:
            return f"{name} has shape {tuple(found[name].shape)}, expected {tuple(value.shape)}"
        size = value.norm().item()
        error = (found[name].float() - value).norm().item() / (size or 1.0)
        # written so that NaN does not pass
        if not error <= row.tolerance:
            return f"{name} is off by {error:.2g} of its size, tolerance {row.tolerance:.2g}"
    return ""


def _repeats(call: Function, row: KernelRow, inputs: Inputs, expected: _Expected) -> bool:
    first, second = (_values(call, row, inputs, expected.output_gradients) for _ in range(2))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def _poison(expected: _Expected, dtype: torch.dtype) -> None:
    """Leave NaN in the freed memory that a variant is given for its outputs, so that an unwritten element shows."""
    sizes = [x.numel() * dtype.itemsize for x in expected.values.values()]
    device = expected.output_gradients[0].device
    # all bits set are NaN in every floating type
    left = [torch.full((size,), 255, dtype=torch.uint8, device=device) for size in sizes]
    del left


def _values(call: Function, row: KernelRow, inputs: Inputs, gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    leaves = {name: x.detach().requires_grad_(name in row.gradients) for name, x in inputs.items()}
    outputs = _tuple(call(**leaves))
    given = [g.to(x.dtype) for g, x in zip(gradients, outputs, strict=True)]
    found = torch.autograd.grad(outputs, [leaves[name] for name in row.gradients], given)
    values = {f"output {index}": x.detach() for index, x in enumerate(outputs)}
    return values | {f"gradient of {name}": x for name, x in zip(row.gradients, found, strict=True)}


def _call(function: Function, name: Pass, row: KernelRow, inputs: Inputs) -> Callable[[], object]:
    if name == "forward":

        def forward() -> object:
            with torch.no_grad():
                return function(**inputs)

        return forward
    leaves = {key: x.detach().requires_grad_(key in row.gradients) for key, x in inputs.items()}
    wanted = [leaves[key] for key in row.gradients]
    given = tuple(torch.randn_like(x) for x in _tuple(function(**leaves)))

    def both() -> object:
        return torch.autograd.grad(_tuple(function(**leaves)), wanted, given)

    return both


def _lines(
    title: str, times: Mapping[str, list[float] | None], targets: Mapping[str, float], floor_s: float
) -> Iterator[Line]:
    """A line for each variant that was timed or has a target, and one for the floor."""
    ours = times.get("ours")
    for variant, found in times.items():
        target = targets.get(variant)
        if found is None:
            if target is not None:
                yield Line(row=title, variant=variant, target=target)
            continue
        low, median, high = statistics.quantiles(found, n=4, method="inclusive")
        ratio = None
        if ours is not None and variant != "ours" and is_steady(ours) and is_steady(found):
            ratio = median / statistics.median(ours)
        yield Line(
            row=title,
            variant=variant,
            median=1e3 * median,
            low=1e3 * low,
            high=1e3 * high,
            ratio=ratio,
            target=target,
            note="" if is_steady(found) else f"quartiles spread over more than {STEADY:.0%}: no ratio",
        )
    ratio = statistics.median(ours) / floor_s if ours is not None and is_steady(ours) else None
    yield Line(row=title, variant="floor", median=1e3 * floor_s, ratio=ratio, target=targets.get("floor"), at_most=True)


def is_steady(times: Sequence[float]) -> bool:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return high - low <= STEADY * median


def _noted(line: Line, note: str, *, fails: bool = False) -> Line:
    return Line(row=line.row, variant=line.variant, note=note, is_failure=fails)


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
