"""Worked examples and the wording of requests: the same form for the examples and for the real request."""

from __future__ import annotations

from cognition_db.records import Rung


def hook_request(method: str, *, purpose: str, source: str, idea: str) -> str:
    """Ask for one function over the toolbox."""
    return f"Rewrite {method}: {purpose}.\nPresent form:\n{source}\nIdea: {idea}"


def splice_request(method: str, *, source: str, init: str, idea: str, tools: str = "") -> str:
    """Ask for one method of any module; the constructor is shown because the method reads its attributes.

    `tools` is the toolbox of a program that is built on it.
    """
    layout = "Vectors q, k, v, o are (B, H, T, d), scalars (B, H, T, 1), x is (B, T, D). There are also:\n"
    return (
        f"Rewrite the method {method}. The constructor is:\n```python\n{init}```\n"
        f"The present method is:\n```python\n{source}```\n{layout + tools + chr(10) if tools else ''}Idea: {idea}"
    )


def module_request(program: str, *, idea: str) -> str:
    """Ask for a whole program."""
    return f"The present program is:\n```python\n{program}```\nIdea: {idea}"


_MIX_PATHS = (
    hook_request(
        "mix_paths",
        purpose="how the memory output o is joined with other paths",
        source="def mix_paths(self, o, q, k, v, x):\n    return o",
        idea="A short causal filter on the values gives local detail that the memory blurs; a gate decides per token.",
    ),
    "# add filtered values to the memory output, gated by the input\n"
    "def mix_paths(self, o, q, k, v, x):\n"
    '    return o + torch.sigmoid(self.p.lin1("local", x)) * self.p.conv("fir", v, 7)\n',
)
_DECAY = (
    hook_request(
        "decay",
        purpose="log decay of the memory at each token; 0 keeps everything",
        source="def decay(self, q, k, v, x):\n    return torch.zeros_like(k[..., :1])",
        idea="Forgetting should depend on the input and start slow.",
    ),
    "# forget slowly, with a rate from the input and an offset per head\n"
    "def decay(self, q, k, v, x):\n"
    '    return -0.05 * F.softplus(self.p.lin1("forget", x) + self.p.scalar("rate", 0.5))\n',
)
_FEATURE_MAP = (
    hook_request(
        "feature_map",
        purpose="what becomes of queries and keys before they are scaled to unit length",
        source="def feature_map(self, q, k, x):\n    return F.silu(q), F.silu(k)",
        idea="A key that also holds the token before lets the memory learn what follows what.",
    ),
    "# keys take part of the previous key, per channel\n"
    "def feature_map(self, q, k, x):\n"
    '    return F.elu(q), F.silu(k) + self.p.vector("shift", 0.5) * prev(k, 1)\n',
)
_READ = "return self.read(q, k, v, self.write_strength(q, k, v, x), self.decay(q, k, v, x))"
_TWO_MEMORIES = (
    hook_request(
        "mix",
        purpose="the whole way from q, k, v to the output",
        source=f"def mix(self, q, k, v, x):\n    {_READ}",
        idea="A second memory can store what the first one got wrong.",
    ),
    "# a second, forgetting memory stores the error of the first, a gate mixes them\n"
    "def mix(self, q, k, v, x):\n"
    "    a1 = self.read(q, k, v, self.write_strength(q, k, v, x), self.decay(q, k, v, x))\n"
    '    a2 = self.read(q, prev(k, 1), v - a1, torch.sigmoid(self.p.lin1("b2", x)),'
    ' -0.05 * F.softplus(self.p.lin1("g2", x)))\n'
    '    return a1 + torch.sigmoid(self.p.lin1("mix", x)) * a2\n',
)
_LOCAL_AND_MEMORY = (
    hook_request(
        "mix",
        purpose="the whole way from q, k, v to the output",
        source=f"def mix(self, q, k, v, x):\n    {_READ}",
        idea="Short and long filters beside the memory, weighted per token.",
    ),
    "# a memory beside a short and a long filter of the values, each with its own gate\n"
    "def mix(self, q, k, v, x):\n"
    '    a1 = self.read(q, k, v, 2 * torch.sigmoid(self.p.lin1("b1", x)), self.decay(q, k, v, x))\n'
    '    a2 = torch.sigmoid(self.p.lin1("near", x)) * self.p.conv("short", v, 3)\n'
    '    a3 = a2 + torch.sigmoid(self.p.lin1("far", x)) * self.p.conv("long", v, 31)\n'
    '    return a1 + self.p.vector("share", 0.5) * a3\n',
)
_SPLICE = (
    splice_request(
        "gate",
        source="def gate(self, y, x):\n    return y\n",
        init="def __init__(self, hidden_size=256, **kwargs):\n    super().__init__()\n"
        "    self.out = nn.Linear(hidden_size, hidden_size)\n",
        idea="Multiply the output with a gate that is learned from the input.",
    ),
    '{"motivation":"a sigmoid gate from the input on the output"}\n'
    "```python\n"
    "self.gate_in = nn.Linear(hidden_size, hidden_size)\n\n"
    "def gate(self, y, x):\n"
    "    return y * torch.sigmoid(self.gate_in(x))\n"
    "```\n",
)

_TOOLBOX_SPLICE = (
    splice_request(
        "mix_paths",
        source="def mix_paths(self, o, q, k, v, x):\n    return o\n",
        init="def __init__(self, hidden_size=256, num_heads=4, **kwargs):\n    super().__init__()\n"
        "    self.num_heads = num_heads\n    self.p = Learned(hidden_size, num_heads)\n",
        idea="A short causal filter on the values gives local detail that the memory blurs; a gate decides per token.",
    ),
    '{"motivation":"filtered values beside the memory, gated by the input"}\n'
    "```python\n"
    "self.share = nn.Parameter(torch.ones(num_heads, 1, 1))\n\n"
    "def mix_paths(self, o, q, k, v, x):\n"
    '    local = self.p.conv("fir", v, 7) - avg(v, 4)\n'
    '    return o + self.share * torch.sigmoid(self.p.lin1("local", x)) * local\n'
    "```\n",
)
_EDITS = {"mix_paths": _MIX_PATHS, "decay": _DECAY, "feature_map": _FEATURE_MAP}


def examples_for(rung: Rung, method: str, *, on_toolbox: bool) -> tuple[tuple[str, str], ...]:
    """Worked examples of a rung; for an edit never one of the same method, because a small model would copy it."""
    if rung == "grammar_edit":
        return tuple(example for name, example in _EDITS.items() if name != method)[:2]
    if rung == "grammar_program":
        return (_TWO_MEMORIES, _LOCAL_AND_MEMORY)
    if rung == "toolbox_program":
        return tuple((asked, f"```python\n{code}```\n") for asked, code in (_TWO_MEMORIES, _LOCAL_AND_MEMORY))
    if rung == "method_splice":
        return (_TOOLBOX_SPLICE if on_toolbox else _SPLICE,)
    return ()
