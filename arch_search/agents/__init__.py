"""Agents: the client of the language model, the roles it plays, and the check of its replies."""
