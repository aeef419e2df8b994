"""A graph that one can write, read and plan.

Stdlib and numpy only.

symbols           sizes that only a step knows, such as past+rows
value_types       what a value is: elements, shape, layout
typed_graph       a graph as frozen dataclasses
operator_kind     what an operator is, as a line of the table says it
operator_table    the operators, once for everybody
linear_layers     linears, whose weights say which layer they are
shape_rules       what an operator makes of what it reads
graph_checks      whether a graph hangs together
graph_builder     writing a graph in Python
graph_text        a graph as text; graph_parser reads it
folding/          equal layers as one that repeats, and back
lowered/          the way back to what engines read
foreign/          graphs of torch and pnnx, whose operators are opaque here
shown/            a package's graph, its memory and its picture
"""
