"""Who owns what: pure functions over frozen dataclasses, JSON round trip, no torch.

model_facts    what a plan needs to know of a model, from its config.json
shards         Plan, Shard and Range: who owns which layers, heads, columns and rows
steps          in what steps weights may be cut, and how to divide steps
cuts           which part of a weight a shard owns
cluster        the machines and the links between them; cluster_json reads and writes them
placed_plan    plan.json: a plan, the machines it was made for and the job
pin            a person's own choice of a plan
quantities     "4G" and "25us" as numbers
host_files     what Open MPI must be told to start a plan
price/         what a plan costs, before anything runs
solve/         the best plan for these machines
stages/        a network as stages: cut, closed, placed
draw/          pictures of a plan
"""
