"""A network as stages: where its graph is cut, what each stage closes over, which rank runs which.

counted_graph  the captured graph as numbers
cutting        from such a graph and a number of stages to the places of the cuts
closing        what a stage takes, gives, and has for itself
index_lists    which rows or columns of a linear each shard has
placing        contiguous runs of stages on the ranks of a cluster, and their price
sharing        what shards change in that price
"""
