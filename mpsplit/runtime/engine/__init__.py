"""One rank's net: tokens in, this rank's slice of their logits out.

engine_protocol    what the token loop asks of an engine
native_engine      the C++ of extensions/engine
stock_engine       the ncnn wheel with layers in Python: slow, right, the oracle
collective_layers  collectives as layers in Python, for the stock engine
quantised_layer    QLinear as a layer in Python
positions          cos, sin and the mask
pages              which page of the cache holds what
cache_room         whether there is memory for a cache
memory_left        what machine and control groups leave
replay             pages for an engine that cannot share its caches
layer_kinds        the kinds of layers by which time is counted
dump               hidden states and the cache of every step, as npz
cores              how many threads a rank may have
control_groups     the control groups that this process is in
"""
