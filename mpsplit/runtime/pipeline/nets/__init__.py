"""One stage at run time: arrays in, arrays out, whatever compiled it.

stage_net what every net can do
given     the arrays that a stage's graph is called with
ncnn_net  a stage in ncnn
iree_net  a stage in IREE
load_net  the net of a stage, by what made its files
"""
