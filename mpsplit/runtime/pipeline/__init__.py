"""A pipeline of stages at run time: one rank's stages, and what travels between ranks.

nets/         one stage: arrays in, arrays out
rank_ring     which values pass between which ranks
pipeline_run  the schedule: several inputs in flight, rank 0 leads
bursts        the ranks of a server: inputs for as long as there are some, then rest
stage_loop    batches of several requests, for a server
shard_work    the shards of a stage, computed by several ranks at once
sharded_run   the schedule where stages have shards: in turns
trial         a stage's files tried out, in a process that may end badly
load_pipeline a rank's stages from a package
image_files   images on disk as arrays of numbers
image_input   such an array as the model's input
text_input    a text as the model's input
pooling       one vector for a text, of the hidden states of its tokens
text_model    what is made of texts: embeddings, or scores of pairs
output_words  outputs for people: labels, embeddings, scores
"""
