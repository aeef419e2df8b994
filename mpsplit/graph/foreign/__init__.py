"""Graphs of other programs, as graphs of operators that are opaque here.

pnnx_view       what pnnx makes of a traced slice
kept_lengths    lengths that pnnx does not say, from what an operator reads
captured_view   what dynamo and torch.export see
foreign_graphs  those of a rank that lie on disk
"""
