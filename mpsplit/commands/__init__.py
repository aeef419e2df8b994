"""What each command does, a file a command: `add_options(parser)` says what it takes, `x_command(args)` does it and gives the exit code.

mpsplit/cli.py lists them; options that several have are in mpsplit/options. What only one needs is imported when it runs: `mpsplit --help`
waits for nothing, and a rank that runs a package never loads torch.
"""
