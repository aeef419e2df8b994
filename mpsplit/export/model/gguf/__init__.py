"""GGUF files, the models of llama.cpp's people, as if they were folders of Hugging Face's.

gguf_header      settings and tensors of a file, or of several
gguf_types       the types that tensors have
gguf_config      config.json, and names of weights
gguf_tokenizer   tokenizer.json and the chat template
gguf_folder      a folder with these
gguf_contents    what is in a file, for people
gguf_checkpoint  weights, read slice by slice
gguf_numbers     integers and scales of blocks
gguf_blocks      weights, in the blocks that they have there
"""
