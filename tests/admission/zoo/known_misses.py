"""Hostile programs that pass the checks today, each with the reason; one that is caught must leave this list."""

MISSED = {
    "acts at a date": "the clock of the machine is the program's as well, and its date has not come",
    "is another where it is examined": "a program can tell the checking child from the training child",
    "only for many rows / long inputs": "no batch of training is as long; the checks run long inputs in few rows",
    "only in deep layers / long inputs": "beyond the length of training the checks build the first layer only",
    "only in training / eval only": "never acts: the two conditions exclude each other",
}
