"""The toolbox as the writers see it: typed primitives and hooks, without torch.

Kinds: `vector` (B, H, T, d) and `scalar` (B, H, T, 1) depend on the token; `fixed_vector` (H, 1, d) and `fixed_scalar`
(H, 1, 1) do not and only broadcast against the others. `name`, `count`, `taps`, `start` and `x` are argument forms.
Every primitive that is not torch's own has its implementation of the same name in models/toolbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["vector", "scalar", "fixed_vector", "fixed_scalar"]
Argument = Literal["vector", "scalar", "name", "count", "taps", "start", "x"]
# where a rendered program gets it from: a copied function, a copied method of Learned, a method of the mixer, torch
Home = Literal["function", "learned", "mixer", "torch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    takes: tuple[Argument, ...]
    gives: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitive:
    """One building block. `call` is how a program names it; `cost` is per token and layer, D = d_model, d per head."""

    name: str
    call: str
    home: Home
    signatures: tuple[Signature, ...]
    doc: str
    causal: str
    cost: str

    @property
    def is_method(self) -> bool:
        """Whether it is a method of the mixer, which a program without a use of it has not."""
        return self.home == "mixer"

    @property
    def is_memory(self) -> bool:
        """Whether it reads a state that queries address; a program reads one before anything else."""
        return self.signatures[0].takes[:3] == ("vector", "vector", "vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One named method of the mixer that an edit may rewrite; insights that share one of its `tags` fit it."""

    name: str
    arguments: tuple[str, ...]
    gives: str
    purpose: str
    tags: tuple[str, ...]

    @property
    def signature(self) -> str:
        """The def line as programs of the toolbox spell it."""
        typed = ", ".join(f"{argument}: Tensor" for argument in self.arguments)
        result = "tuple[Tensor, Tensor]" if self.gives == "two vectors" else "Tensor"
        return f"def {self.name}(self, {typed}) -> {result}:"

    @property
    def short_signature(self) -> str:
        """The def line as the model is shown it and writes it."""
        return f"def {self.name}(self, {', '.join(self.arguments)}):"


def _same(*rest: Argument) -> tuple[Signature, ...]:
    """Signatures of an operation that keeps the kind of its first argument."""
    vector = Signature(takes=("vector", *rest), gives="vector")
    return (vector, Signature(takes=("scalar", *rest), gives="scalar"))


_TOKEN = "acts on each token alone"

PRIMITIVES: tuple[Primitive, ...] = (
    Primitive(
        name="l2norm",
        call="l2norm",
        home="function",
        signatures=(Signature(takes=("vector",), gives="vector"),),
        doc="unit length",
        causal=_TOKEN,
        cost="O(D)",
    ),
    Primitive(
        name="prev",
        call="prev",
        home="function",
        signatures=_same("count"),
        doc="the value n tokens earlier",
        causal="reads token t - n only",
        cost="O(D)",
    ),
    Primitive(
        name="avg",
        call="avg",
        home="function",
        signatures=_same("count"),
        doc="mean over the last n tokens",
        causal="reads tokens t - n + 1 to t",
        cost="O(n D)",
    ),
    Primitive(
        name="peak",
        call="peak",
        home="function",
        signatures=_same("count"),
        doc="largest of the last n tokens, per channel",
        causal="reads tokens t - n + 1 to t",
        cost="O(n D)",
    ),
    Primitive(
        name="rms",
        call="rms",
        home="function",
        signatures=(Signature(takes=("vector",), gives="vector"),),
        doc="mean square 1",
        causal=_TOKEN,
        cost="O(D)",
    ),
    Primitive(
        name="softmax",
        call="softmax",
        home="function",
        signatures=(Signature(takes=("vector",), gives="vector"),),
        doc="positive, sums to 1 over the channels",
        causal=_TOKEN,
        cost="O(D)",
    ),
    Primitive(
        name="relu2",
        call="relu2",
        home="function",
        signatures=_same(),
        doc="squared rectifier",
        causal=_TOKEN,
        cost="O(D)",
    ),
    Primitive(
        name="rotate",
        call="rotate",
        home="function",
        signatures=(Signature(takes=("vector",), gives="vector"),),
        doc="turned by the position, so that q and k meet by distance",
        causal="reads token t and its position",
        cost="O(D)",
    ),
    Primitive(
        name="linear_memory",
        call="linear_memory",
        home="function",
        signatures=(Signature(takes=("vector", "vector", "vector", "scalar"), gives="vector"),),
        doc="memory without correction: q reads, k addresses, v is added, a small s forgets faster",
        causal="chunked scan over the past, the present token included",
        cost="O(d D)",
    ),
    Primitive(
        name="gated_delta_rule",
        call="self.read",
        home="mixer",
        signatures=(Signature(takes=("vector", "vector", "vector", "scalar", "scalar"), gives="vector"),),
        doc="memory: q reads, k addresses, v is stored, beta in 0..2 is the write strength, g <= 0 the log decay",
        causal="chunked scan over the past, the present token included",
        cost="O(d D)",
    ),
    Primitive(
        name="lin1",
        call="self.p.lin1",
        home="learned",
        signatures=(Signature(takes=("name", "x"), gives="scalar"),),
        doc="learned scalar of the input",
        causal=_TOKEN,
        cost="O(D H)",
    ),
    Primitive(
        name="lind",
        call="self.p.lind",
        home="learned",
        signatures=(Signature(takes=("name", "x"), gives="vector"),),
        doc="learned vector of the input",
        causal=_TOKEN,
        cost="O(D D)",
    ),
    Primitive(
        name="scalar",
        call="self.p.scalar",
        home="learned",
        signatures=(Signature(takes=("name", "start"), gives="fixed_scalar"),),
        doc="learned constant per head",
        causal="does not depend on the input",
        cost="O(1)",
    ),
    Primitive(
        name="vector",
        call="self.p.vector",
        home="learned",
        signatures=(Signature(takes=("name", "start"), gives="fixed_vector"),),
        doc="learned constant per channel",
        causal="does not depend on the input",
        cost="O(1)",
    ),
    Primitive(
        name="conv",
        call="self.p.conv",
        home="learned",
        signatures=(Signature(takes=("name", "vector", "taps"), gives="vector"),),
        doc="learned causal filter over the last n tokens",
        causal="reads tokens t - n + 1 to t",
        cost="O(n D)",
    ),
    Primitive(
        name="ema",
        call="self.p.ema",
        home="learned",
        signatures=(
            Signature(takes=("name", "vector"), gives="vector"),
            Signature(takes=("name", "scalar"), gives="scalar"),
        ),
        doc="leaky average over the past with a learned rate per head",
        causal="chunked scan over the past, the present token included",
        cost="O(32 D)",
    ),
    Primitive(
        name="heads",
        call="self.p.heads",
        home="learned",
        signatures=(
            Signature(takes=("name", "vector"), gives="vector"),
            Signature(takes=("name", "scalar"), gives="scalar"),
        ),
        doc="learned mixing of the heads",
        causal=_TOKEN,
        cost="O(H D)",
    ),
    *(
        Primitive(name=call, call=call, home="torch", signatures=_same(), doc=doc, causal=_TOKEN, cost="O(D)")
        for call, doc in (
            ("torch.sigmoid", "between 0 and 1"),
            ("torch.tanh", "between -1 and 1"),
            ("F.silu", "smooth rectifier"),
            ("F.elu", "rectifier that ends at -1"),
            ("F.relu", "rectifier"),
        )
    ),
)

HOOKS: tuple[Hook, ...] = (
    Hook(
        name="feature_map",
        arguments=("q", "k", "x"),
        gives="two vectors",
        purpose="what becomes of queries and keys before they are scaled to unit length",
        tags=("feature_map",),
    ),
    Hook(
        name="values",
        arguments=("q", "k", "v", "x"),
        gives="vector",
        purpose="what is stored in the memory",
        tags=("convolution",),
    ),
    Hook(
        name="write_strength",
        arguments=("q", "k", "v", "x"),
        gives="scalar in 0..2",
        purpose="how strongly each token overwrites the memory",
        tags=("write_strength",),
    ),
    Hook(
        name="decay",
        arguments=("q", "k", "v", "x"),
        gives="scalar, at most 0",
        purpose="log decay of the memory at each token; 0 keeps everything",
        tags=("decay",),
    ),
    Hook(
        name="mix_paths",
        arguments=("o", "q", "k", "v", "x"),
        gives="vector",
        purpose="how the memory output o is joined with other paths",
        tags=("mix_paths",),
    ),
    Hook(
        name="output_gate",
        arguments=("o", "x"),
        gives="vector",
        purpose="what the normalised output o is multiplied with",
        tags=("output_gate",),
    ),
)

MIX = Hook(
    name="mix",
    arguments=("q", "k", "v", "x"),
    gives="vector",
    purpose="the whole way from q, k, v to the output",
    tags=("memory", "convolution", "mix_paths"),
)

BY_HOOK = {hook.name: hook for hook in (*HOOKS, MIX)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """A primitive that a campaign found in free code, and the function that rendered programs copy in for it."""

    primitive: Primitive
    source: str


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What writers have at hand: the primitives above and those that grew in the campaign."""

    grown: tuple[Grown, ...] = ()
    missing: frozenset[str] = frozenset()  # names of primitives that are methods of a mixer, and this one has not

    @property
    def primitives(self) -> tuple[Primitive, ...]:
        return tuple(
            one for one in (*PRIMITIVES, *(one.primitive for one in self.grown)) if one.name not in self.missing
        )

    def called(self, call: str) -> Primitive | None:
        """The primitive that a program calls so."""
        return next((one for one in self.primitives if one.call == call), None)


BUILT_IN = Toolbox()


def toolbox_text(toolbox: Toolbox) -> str:
    """The primitives as the prompt lists them: one line each, in the order of the toolbox."""
    lines = []
    for primitive in toolbox.primitives:
        if primitive.home == "torch":
            continue
        shown = {"name": '"name"', "start": "0.5", "count": "n", "taps": "n", "vector": "v", "scalar": "s"}
        takes = primitive.signatures[0].takes
        words = [shown.get(t, t) for t in takes]
        if primitive.is_memory:
            words[:3] = ["q", "k", "v"]
        if primitive.home == "mixer":
            words[3:] = ["beta", "g"]
        kinds = " or ".join(signature.gives.replace("fixed_", "") for signature in primitive.signatures)
        lines.append(f"{primitive.call}({', '.join(words)})  # {kinds}: {primitive.doc}")
    names = ", ".join(primitive.call for primitive in PRIMITIVES if primitive.home == "torch")
    return "\n".join([*lines, f"{names}  # of a vector or a scalar"])
