"""What several commands share: options that belong together, and beside them what they mean.

In each file `add_x(parser)` adds them; what else is there reads them from the parsed arguments.
"""
