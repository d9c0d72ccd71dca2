"""From program text to a mixer: importing a candidate's file and building its module by the candidate contract.

Runs the program's code: only for a child process. What the program itself raises passes through unchanged.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn


class ProgramContractError(Exception):
    """The program does not keep the candidate contract; one line. Belongs to the candidate: becomes a Verdict."""


def load_mixer_class(path: Path, class_name: str | None, *, default_class: str = "") -> type[nn.Module]:
    """The module that the program in `path` defines.

    With no `class_name`: `default_class` where the program has one, else the only public torch.nn.Module defined there.

    Raises:
        ProgramContractError: no such class, or none or several to choose from.
    """
    program = _imported(path)
    if class_name is None and default_class and hasattr(program, default_class):
        class_name = default_class
    if class_name is None:
        return _only_public_module(program, default_class)
    found = getattr(program, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ProgramContractError(
            f"the program defines no torch.nn.Module named {class_name}; it defines {_names(_public_modules(program))}"
        )
    return found


def build_mixer(cls: type[nn.Module], *, d_model: int, n_heads: int, layer_idx: int, inner_width: int = 0) -> nn.Module:
    """An instance for one layer, given those of our keywords that the constructor accepts.

    `inner_width` goes to a constructor that names `intermediate_size`; 0 leaves the program its own.

    Raises:
        ProgramContractError: the constructor requires an argument that is none of ours.
    """
    offered = {
        "hidden_size": d_model,
        "d_model": d_model,
        "num_heads": n_heads,
        "n_heads": n_heads,
        "layer_idx": layer_idx,
    }
    if inner_width:
        offered["intermediate_size"] = inner_width
    parameters = list(inspect.signature(cls).parameters.values())
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    strange = [p.name for p in required if p.name not in offered or p.kind is p.POSITIONAL_ONLY]
    if strange:
        raise ProgramContractError(
            f"{cls.__name__} requires the argument {strange[0]}; a constructor may require only "
            f"{', '.join(offered)}; give the others a default"
        )
    passed = named & set(offered)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        passed |= _unless_named("hidden_size", "d_model", passed)
        passed |= _unless_named("num_heads", "n_heads", passed)
        passed.add("layer_idx")
    return cls(**{name: offered[name] for name in offered if name in passed})


def mix(module: nn.Module, x: Tensor) -> Tensor:
    """What the mixer makes of hidden states [B, T, D]: its output, or the first item where it returns a tuple.

    Raises:
        ProgramContractError: the output is not a tensor of the same shape.
    """
    output = module(x)
    mixed = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(mixed, Tensor):
        raise ProgramContractError(f"forward returned {type(mixed).__name__} where a tensor [B, T, D] is expected")
    if mixed.shape != x.shape:
        raise ProgramContractError(f"forward turned shape {list(x.shape)} into {list(mixed.shape)}; they must be equal")
    return mixed


def _unless_named(keyword: str, other: str, named: set[str]) -> set[str]:
    return set() if other in named else {keyword}


def _imported(path: Path) -> ModuleType:
    name = f"candidate_program_{path.stem.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ProgramContractError(f"{path.name} is not a Python file; name it *.py")
    program = importlib.util.module_from_spec(spec)
    # dataclasses and typing look the module up by name while it is being executed
    sys.modules[name] = program
    spec.loader.exec_module(program)
    return program


def _public_modules(program: ModuleType) -> list[type[nn.Module]]:
    classes = [value for name, value in vars(program).items() if isinstance(value, type) and not name.startswith("_")]
    own = [c for c in classes if issubclass(c, nn.Module) and c.__module__ == program.__name__]
    return list(dict.fromkeys(own))


def _only_public_module(program: ModuleType, default_class: str) -> type[nn.Module]:
    modules = _public_modules(program)
    if len(modules) != 1:
        named = f"a torch.nn.Module named {default_class} or " if default_class else ""
        raise ProgramContractError(
            f"the program defines {_names(modules)}; expected {named}exactly one public torch.nn.Module; name the class"
        )
    return modules[0]


def _names(modules: list[type[nn.Module]]) -> str:
    return ", ".join(module.__name__ for module in modules) or "no public torch.nn.Module"
