"""Kinds of layers, by which an engine tells where its time goes.

In the order of extensions/engine/layer_times.h, which counts them.
"""

COMPUTING = ("embedding", "linear", "attention", "norm", "other")
BETWEEN = ("all_reduce", "all_gather", "broadcast", "send", "recv")  # waiting for peers included
KINDS = COMPUTING + BETWEEN
