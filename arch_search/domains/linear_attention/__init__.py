"""What the search is about here: token mixers of linear cost, starting from DeltaNet."""

from importlib import resources

SEED_PROGRAM = resources.files(__name__).joinpath("seed_program.py").read_text(encoding="utf-8")

__all__ = ["SEED_PROGRAM"]
