"""Is it right? A package against the model it was made of.

original_model  the original, one decoder layer at a time
rounded_model   the yardstick: what plain rounding makes of it
verification    `mpsplit verify`
stored_weights  each weight of a rank against the checkpoint's
weight_bounds   how far a stored weight may be off
gate            the limits, and what does not hold
parting         what each part of a package does by itself
layer_cost      what comparing layer by layer takes, told before
likelihood      what logits say of the tokens that may follow
stages_agreement  a pipeline of stages, output by output
tasks           questions and texts that a package is judged by
evaluation      `mpsplit eval`
"""
