"""One rank's slice as modules, and as the graph that dynamo sees.

slicing          the modules, cut by the table of cuts
operators        torch.ops.mpi_extensions: the collectives that stay in the graph
null_operators   the same where the C++ was not built
trace_inputs     what the graph is traced with
capture          the dynamo graph of a slice
typed_text       that graph as text, with types
miniature        the same slice, small: what pnnx is given
torchscript      the graph as the file that pnnx reads
trace_structure  what convert must know of a trace besides its graph
torch_engine     the sliced modules as an engine, before conversion
"""
