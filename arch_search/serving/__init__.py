"""Serving: the local model server - its environment, its weights, its process, its address."""
