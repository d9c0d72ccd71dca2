"""Feed-forward layers beside a fixed token mixer, starting from SwiGLU."""

from importlib import resources
from pathlib import Path

from arch_search.contract import Contract
from arch_search.domains.domain import Domain, Words

DOMAIN = Domain(
    name="feed_forward",
    contract=Contract(
        class_name="FeedForward",
        place="feed_forward",
        mixer="arch_search.domains.linear_attention.seed_program:DeltaNet",
        # what a layer that treats each token alone can recall is a matter of the mixer beside it
        probes=(),
    ),
    words=Words(
        things="feed-forward layers",
        thing="feed-forward layer",
        definition="what a block of a language model does to each token by itself, beside a fixed token mixer",
        keywords="hidden_size, intermediate_size, layer_idx",
        token_rule="each token is treated alone",
        cost_rule="cost grows linearly with length",
        effectiveness="predicts text better than the SwiGLU it came from, at equal parameters",
    ),
    reference="swiglu",
    seed_program=resources.files(__name__).joinpath("seed_program.py").read_text(encoding="utf-8"),
    baselines=(Path(__file__).parent / "baselines",),
    insight_tags=("feed_forward",),
)

__all__ = ["DOMAIN"]
