"""What several commands share: options that belong together, and beside them what they mean.

In each file `add_x(parser)` adds them; what else is there reads them from the parsed arguments.

    model_argument    MODEL: a model as others made it
    package_argument  PACKAGE, and the key that opens it
    plan_options      the plan that a package is made for
    machine_options   the machines: measured, listed by Ray, or described
    rank_options      how many ranks, where, who starts them, with how many threads
    rank_needs        what each rank asks of its machine
    loop_options      the token loop over a package
    settings_options  how answers are to be
    prefix_option     a kept prefix to begin with
    stage_options     a model as a pipeline of stages
    number_checks     numbers that cannot be, refused before the work
"""
