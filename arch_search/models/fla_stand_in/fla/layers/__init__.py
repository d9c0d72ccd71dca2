"""Only the helpers of `fla.layers.utils`: a candidate brings its own layer."""
