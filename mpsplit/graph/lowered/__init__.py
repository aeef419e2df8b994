"""From a graph back to what engines read.

param_of_graph   a graph as the text of ncnn's graph
open_attention   attention as ncnn's own layers have it
"""
