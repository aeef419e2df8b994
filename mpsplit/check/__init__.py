"""Is it right? A package against the model it was made of.

original_model  the original, one decoder layer at a time
verification    `mpsplit verify`
gate            what it asks before it calls two models the same
parting         which layer is the first to part
"""
