"""What each command does, a file a command:

`add_options(parser)` says what it takes, `x_command(args)` does it and gives the exit code.

mpsplit/cli.py lists them; options that several have are in mpsplit/options. Engines, torch and HTTP
are imported where a command begins to work: `mpsplit --help` waits for none of them, and a rank
that runs a package never loads torch.
"""
