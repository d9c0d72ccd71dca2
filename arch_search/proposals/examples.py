"""Worked examples: what the prompts' questions were filled with, and a good answer."""

from __future__ import annotations

from cognition_db.records import Rung

Example = tuple[dict[str, str], str]


def _asked(method: str, *, source: str, idea: str, **facts: str) -> dict[str, str]:
    """What the question of a prompt is filled with; an example follows an insight, never a plan, and knows no past."""
    return {"method": method, "source": source, "insight": idea, "plan": "", "tried": "", "learned": "", **facts}


_MIX_PATHS = (
    _asked(
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
    _asked(
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
    _asked(
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
    _asked(
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
    _asked(
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
    _asked(
        "gate",
        source="def gate(self, y, x):\n    return y",
        init="def __init__(self, hidden_size=256, **kwargs):\n    super().__init__()\n"
        "    self.out = nn.Linear(hidden_size, hidden_size)",
        tools="",
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
    _asked(
        "mix_paths",
        source="def mix_paths(self, o, q, k, v, x):\n    return o",
        init="def __init__(self, hidden_size=256, num_heads=4, **kwargs):\n    super().__init__()\n"
        "    self.num_heads = num_heads\n    self.p = Learned(hidden_size, num_heads)",
        tools="",
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


def examples_for(rung: Rung, method: str, *, on_toolbox: bool) -> tuple[Example, ...]:
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
