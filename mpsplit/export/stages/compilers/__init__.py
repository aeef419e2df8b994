"""From a stage's program to files that run: a compiler a file.

stage_compiler what each can do, and what it is given
ncnn_compiler  pnnx, and ncnn's files; linears may be packed
stage_graph    ncnn's graph of a stage with its linears packed
iree_compiler  MLIR and machine code of IREE, weights in an archive
replayed       TorchScript as a program of torch.export, whose lengths grow
stage_mlir     such a program as MLIR, whose weights are in an archive
"""
