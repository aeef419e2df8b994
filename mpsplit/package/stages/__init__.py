"""A pipeline of stages on the disk.

pipeline        stages.json: every stage, what it takes, gives and closes over, who runs it
built           what made a stage's files, and for which processor
growing_shapes  shapes whose length may grow, as text and as numbers
sharded_part    what several ranks compute of a stage, and how it is put together
stage_files     the files of one stage
stage_arrays    the arrays of its .bin, layer by layer
made_arrays     what a stage makes of the length alone: masks, positions
stage_manifest  manifest.json of such a package
image_settings  how an image becomes the model's input, as its preprocessor_config.json says
sentence_settings  how hidden states become an embedding, as sentence-transformers describes it
"""
