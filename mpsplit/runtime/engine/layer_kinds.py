"""Kinds of layers, by which an engine tells where its time goes: what extensions/engine/spent.h
counts, in its order."""

COMPUTING = ("embedding", "linear", "attention", "norm", "other")
BETWEEN = ("all_reduce", "all_gather", "broadcast", "send", "recv")  # waiting for peers included
KINDS = COMPUTING + BETWEEN
