"""From a trace to the text of ncnn's graph: pnnx, then rewrites.

pnnx                 runs it on one file
named_weights        layers are named for the weights they own
rewrites/            the rewrites, read top to bottom
fuse                 fewer, larger layers for the native engine
packed_linears       linears become QLinear: their weights leave the file of floats
rank_graphs          all of it in order, for one rank
collective_schedule  do the ranks' collectives meet?
"""
