"""Whether a rank's graph can be given to an engine.

graph_check   both graphs of a rank, its weights, and what C++ is told
layer_shapes  what each layer may say, and which shapes it takes and makes
"""
