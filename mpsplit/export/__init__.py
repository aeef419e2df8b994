"""Checkpoint bytes to a package, a rank its own slice.

May import torch; imports nothing of the runtime.

partition           every rank cuts and traces its own slice
new_package         a package that is being made, until it is whole
convert             every rank turns its trace into graphs and streams its weights beside them
written_package     a package of graphs that somebody wrote, without a trace
package_texts       graphs and facts of the ranks, which take their names last and all together
repartition         a package for another plan, without the model that it was made of
random_package      packages of a known shape whose weights mean nothing, for measurements
unfinished_folders  what ranks have begun of a partition, until it is whole
model/              where weights come from
trace/              modules that are cut, then traced
graph/              from a trace to the text of ncnn's graph
parts/              a decoder by IREE: its graph in programs, with collectives between
stages/             any network as a pipeline of closed stages
weights/            what goes into the weight files
"""
