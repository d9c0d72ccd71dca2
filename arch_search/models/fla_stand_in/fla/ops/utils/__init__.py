"""Only what layers import."""
