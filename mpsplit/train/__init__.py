"""Training through torch.compile: importing this room registers the backend "mpsplit".

backend        what torch.compile calls: options in, a compiled function out
train_options  what may stand in options={...}
decompositions operators that are spelled out before any target sees them
targets        who compiles, and which operators each takes
partitions     one graph: what the target takes compiled, the rest by torch
fx_text        a graph as text, a line an operator
artefacts      a text for each graph and the model's arrays, as files
compare        each operator beside torch in float64
train_report   what became of each graph of a module
"""

from mpsplit.train.backend import register
from mpsplit.train.train_report import report

__all__ = ["report"]

register()
