"""Hostile programs that pass the checks today, each with the reason; one that is caught must leave this list."""

_NEVER = "never acts: its two conditions exclude each other"

MISSED = {
    "acts at a date": "the clock of the machine is the program's as well, and its date has not come",
    "is another where it is examined": "a program can tell the checking child from the training child",
    "only for many rows / long inputs": "no batch of training is as long; the checks run long inputs in few rows",
    "only in deep layers / long inputs": "beyond the length of training the checks build the first layer only",
    "only in wide models / long inputs": "beyond the length of training the checks build their own width only",
    "only in training / eval only": _NEVER,
    "batch norm over time / eval only": _NEVER,
    "writes to the weights in training only / eval only": _NEVER,
    "all of it detached / eval only": "without effect: in use nothing takes a gradient",
    "half without gradients / eval only": "without effect: in use nothing takes a gradient",
    "only at multiples of 256 / odd lengths": _NEVER,
}
