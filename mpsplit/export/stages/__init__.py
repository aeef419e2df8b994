"""Any network as a pipeline of closed stages: from a model to a program of each stage.

model_builder    MODEL as a module without bytes, and what it is called with
captured         the graph of the whole model, as torch.export sees it
clean_graph      that graph without what does not compute
made_values      what follows from the length alone, and is made where it is read
counting         the graph as numbers, for plan/stages
stage_program    one stage's part of the graph, as a module, and as TorchScript for pnnx
shard_parts      the linears of a stage that several ranks compute
shard_program    a shard of them, as a module
stage_cuts       MODEL, cut and closed: what stages, plan and partition begin with
stage_shell      what partition leaves of a stage or shard for convert
checkpoint_names which tensor of a checkpoint a weight is
partition_stages every rank writes its own stages
compilers/       from a stage's program to files that run
stage_conversion one stage to a compiler's files, and the proof that they compute the same
convert_stages   every rank makes the files of its own stages
"""
