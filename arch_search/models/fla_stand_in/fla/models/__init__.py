"""Only the cache of `fla.models.utils`."""
