"""Stand-in for the names of flash-linear-attention that candidates import, in plain torch, for machines without a GPU.

Signatures follow flash-linear-attention 0.6 (github.com/fla-org/flash-linear-attention, MIT); the code is our own.
Legend: B batch, T tokens, H heads, K key width, V value width, N sequences, W taps of a short convolution.
"""
