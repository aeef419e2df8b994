"""What commands do with a pipeline of stages: the second half of each, a file a command.

staged_plan, staged_partition, staged_convert, staged_run, staged_serve, staged_verify,
staged_inspect
"""
