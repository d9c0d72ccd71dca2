"""Typed grammars (GBNF, xgrammar dialect) over the toolbox, generated from the registry.

Two families of rules carry the tensor layout: `v...` are vectors (B, H, T, d), `s...` are scalars (B, H, T, 1). A
context-free grammar does not know which names exist, so a program's rules are made once per line, with the names
declared so far. Ranges (write strength in 0..2, decay at most 0) stand in the return rules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from arch_search.proposals.registry import BY_HOOK, MIX, Hook, Kind, Primitive, Toolbox

MAX_LINES = 5  # named intermediates of a grammar program
# Bounded prose in front of the code: a small model writes better code after one sentence about it.
_COMMENT = '"# " [A-Za-z] [A-Za-z0-9 ,.()\'+*/_-]{10,120} "\\n"'
_TERMINALS = {
    "count": "[1-8]",
    "taps": '"3" | "5" | "7" | "15" | "31"',
    "start": '"0.0" | "0.5" | "1.0" | "-1.0" | "2.0"',
    "name": '"\\"" [a-z] [a-z0-9_]{1,11} "\\""',
    "speed": '"0.01" | "0.05" | "0.2"',
}


def edit_grammar(hook_name: str, toolbox: Toolbox) -> str:
    """Grammar of one rewritten hook: a comment line, the def line, one return."""
    hook = BY_HOOK[hook_name]
    rules = {"root": f"{_COMMENT} {_text(f'{hook.short_signature}{chr(10)}    return ')} result {_text(chr(10))}"}
    rules |= _RESULTS[hook_name](hook, toolbox)
    return _render(rules)


def program_grammar(hooks: Sequence[str], toolbox: Toolbox) -> str:
    """Grammar of a whole `mix`: up to five named intermediates, the first a memory; `hooks` are those mix may call."""
    arguments = ", ".join(MIX.arguments)
    beta = [_text(f"self.write_strength({arguments})")] if "write_strength" in hooks else []
    decay = [_text(f"self.decay({arguments})")] if "decay" in hooks else []
    rules = {"root": f"{_COMMENT} {_text(MIX.short_signature + chr(10))} line1"}
    for line in range(1, MAX_LINES + 1):
        names = ["q", "k", "v", *(f"a{i}" for i in range(1, line))]
        at = f"_{line}"
        rules |= _values(names, at, toolbox)
        rules[f"beta{at}"] = _any([*beta, f'"torch.sigmoid(" s{at} ")"', f'"2 * torch.sigmoid(" s{at} ")"'])
        rules[f"decay{at}"] = _any([*decay, f'"-" speed " * F.softplus(" s{at} ")"'])
        rules[f"stored{at}"] = _any([f"vnt{at}", f'vn{at} " - " vn{at}'] if line > 1 else [f"vnt{at}"])
        rules[f"read{at}"] = _memories(at, toolbox)
        body = f"read{at}" if line == 1 else f"( read{at} | joined{at} )"
        rules[f"joined{at}"] = _any([_joined(f"vn{at}", at), f'gate{at} " * " vt{at}'])
        rules |= _final(line, toolbox)
        follow = f"( line{line + 1} | final{line} )" if line < MAX_LINES else f"final{line}"
        rules[f"line{line}"] = f'"    a{line} = " {body} "\\n" {follow}'
    return _render(rules)


def _memories(at: str, toolbox: Toolbox) -> str:
    """Reading any memory of the toolbox: query, key, what is stored, and what decides on writing and forgetting."""
    ranged = {"self.read": f'beta{at} ", " decay{at}'}
    return _any(
        [
            f'{_text(f"{one.call}(")} vnt{at} ", " vnt{at} ", " stored{at} ", " {ranged.get(one.call, f"s{at}")} ")"'
            for one in toolbox.primitives
            if one.is_memory
        ]
    )


def _final(line: int, toolbox: Toolbox) -> dict[str, str]:
    """Rules of the return after `line` intermediates; it uses the last of them, so that no path ends nowhere."""
    at, last = f"_end{line}", _text(f"a{line}")
    rules = _values(["q", "k", "v", *(f"a{i}" for i in range(1, line + 1))], at, toolbox)
    ways = [_joined(last, at), f'vn{at} " + " gate{at} " * " {last}', f'vn{at} " + " vf{at} " * " {last}']
    more = _any(['""', f'" + " vn{at}', f'" + " gate{at} " * " vn{at}'])
    rules[f"result{at}"] = f"{_any([*ways, last] if line > 1 else ways)} {more}"
    rules[f"final{line}"] = f'"    return " result{at} "\\n"'
    return rules


def _values(names: Sequence[str], at: str, toolbox: Toolbox) -> dict[str, str]:
    """Rules of vectors and scalars over the named vectors; `at` makes the rule names unique.

    vn named vector, vnt one operation on it, va any atom, vt one operation on an atom, vf fixed vector; sa scalar atom,
    s1 one operation on it, s a sum or product of two; gate a scalar in 0..1.
    """
    vector_calls = _calls("vector", at, toolbox)
    learned = [call for primitive, call in vector_calls if not _is_operation(primitive)]
    return {
        f"vn{at}": _any([_text(name) for name in names]),
        f"vnt{at}": _any([f"vn{at}", *_operations("vector", at, toolbox, operand=f"vn{at}")]),
        f"va{at}": _any([f"vn{at}", *learned]),
        f"vt{at}": _any([f"va{at}", *_operations("vector", at, toolbox, operand=f"va{at}")]),
        f"vf{at}": _any([call for _, call in _calls("fixed_vector", at, toolbox)]),
        f"sf{at}": _any([call for _, call in _calls("fixed_scalar", at, toolbox)]),
        f"sl{at}": _any([call for primitive, call in _calls("scalar", at, toolbox) if not _is_operation(primitive)]),
        f"sa{at}": _any([f"sl{at}", f'"(" vn{at} " * " vt{at} ").sum(-1, keepdim=True)"']),
        f"s1{at}": _any([f"sa{at}", *_operations("scalar", at, toolbox, operand=f"sa{at}")]),
        f"s2{at}": _any([f's1{at} " + " s1{at}', f's1{at} " * " s1{at}', f's1{at} " + " sf{at}']),
        f"s{at}": _any([f"s1{at}", f"s2{at}"]),
        f"gate{at}": f'"torch.sigmoid(" s{at} ")"',
    }


def _joined(first: str, at: str) -> str:
    """Ways to join the vector `first` with one more path or gate."""
    return _any(
        [
            f'{first} " + " vt{at}',
            f'{first} " + " gate{at} " * " vt{at}',
            f'{first} " + " vf{at} " * " vt{at}',
            f'{first} " * " gate{at}',
            f'{first} " * torch.sigmoid(" vt{at} ")"',
            f'{first} " * F.silu(" vt{at} ")"',
            f'gate{at} " * " {first} " + (1 - " gate{at} ") * " vt{at}',
        ]
    )


def _feature_map(_: Hook, toolbox: Toolbox) -> dict[str, str]:
    rules = _values(["q"], "_q", toolbox) | _values(["k"], "_k", toolbox)
    for at in ("_q", "_k"):
        rules[f"mapped{at}"] = _any([f"vnt{at}", _joined(f"vnt{at}", at)])
    return rules | {"result": 'mapped_q ", " mapped_k'}


def _new_values(hook: Hook, toolbox: Toolbox) -> dict[str, str]:
    rules = _values(_vectors(hook), "_a", toolbox) | _values(["v"], "_v", toolbox)
    return rules | {"result": _any(["vnt_v", _joined("vnt_v", "_a")])}


def _write_strength(hook: Hook, toolbox: Toolbox) -> dict[str, str]:
    return _values(_vectors(hook), "_a", toolbox) | {
        "result": '( "2 * torch.sigmoid(" s_a ")" | "torch.sigmoid(" s2_a ")" )'
    }


def _decay(hook: Hook, toolbox: Toolbox) -> dict[str, str]:
    return _values(_vectors(hook), "_a", toolbox) | {"result": '"-" speed " * F.softplus(" s_a ")"'}


def _mix_paths(hook: Hook, toolbox: Toolbox) -> dict[str, str]:
    return _values(_vectors(hook), "_a", toolbox) | {"result": _joined(_text("o"), "_a")}


def _output_gate(hook: Hook, toolbox: Toolbox) -> dict[str, str]:
    kinds = ['"torch.sigmoid(" vt_a ")"', '"F.silu(" vt_a ")"', '"(1 + torch.tanh(" vt_a "))"', '"2 * " gate_a']
    return _values(_vectors(hook), "_a", toolbox) | {"result": f'"o * " {_any(kinds)}'}


_RESULTS = {
    "feature_map": _feature_map,
    "values": _new_values,
    "write_strength": _write_strength,
    "decay": _decay,
    "mix_paths": _mix_paths,
    "output_gate": _output_gate,
}


def _vectors(hook: Hook) -> list[str]:
    return [argument for argument in hook.arguments if argument != "x"]


def _is_operation(primitive: Primitive) -> bool:
    """Whether it turns a vector or scalar into another, rather than making one."""
    return bool({"vector", "scalar"} & set(primitive.signatures[0].takes))


def _calls(kind: Kind, at: str, toolbox: Toolbox, operand: str = "") -> list[tuple[Primitive, str]]:
    """Every primitive that gives `kind`, as a call in GBNF; memories are left out, they have rules of their own."""
    found = []
    for primitive in toolbox.primitives:
        for signature in primitive.signatures:
            if signature.gives != kind or primitive.is_memory:
                continue
            forms = {"vector": operand or f"va{at}", "scalar": operand or f"sa{at}", "x": '"x"'}
            arguments = ' ", " '.join(forms.get(argument, argument) for argument in signature.takes)
            found.append((primitive, f"{_text(primitive.call + '(')} {arguments} {_text(')')}"))
    return found


def _operations(kind: Kind, at: str, toolbox: Toolbox, *, operand: str) -> list[str]:
    """Calls that turn one operand of `kind` into another of the same kind."""
    return [call for primitive, call in _calls(kind, at, toolbox, operand) if _is_operation(primitive)]


def _text(literal: str) -> str:
    return json.dumps(literal)


def _any(alternatives: Sequence[str]) -> str:
    return f"( {' | '.join(alternatives)} )"


def _render(rules: dict[str, str]) -> str:
    lines = [f"{name} ::= {body}" for name, body in (rules | _TERMINALS).items()]
    return "\n".join(lines) + "\n"
