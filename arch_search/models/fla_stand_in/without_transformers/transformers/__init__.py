"""Stand-in for the few names of transformers that layers of fla import, where transformers is not installed."""
