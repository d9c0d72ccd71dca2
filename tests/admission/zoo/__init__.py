"""Hostile and honest programs for the admission checks, and what rewrites and examines them."""
