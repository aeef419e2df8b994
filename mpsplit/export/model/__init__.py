"""Where weights come from: a model as others made it.

model_source     MODEL as the user typed it: a folder, its config, what its headers say
checkpoint       tensors on disk, read slice by slice; checkpoints: of whichever kind
given_weights    numpy arrays in its place
model_origin     which model a partition was made of, and whether it is still the same
tokenizer_files  what the run half needs of the tokenizer
factory_folder   a model that a function of the user's builds
named_shapes     shapes to measure by, by name
gguf/            models in GGUF files
random_weights   safetensors files full of random numbers
"""
