"""One rank's half at run time. Never imports torch.

engine/   one rank's net and its cache of keys and values
account/  what steps cost
choose/   from logits to one token
talk/     text and conversations as tokens
kept/     what the cache knows of a text, kept on disk
loop/     requests in, tokens out; rank 0 leads, the others follow
iree/     what IREE compiled
pipeline/ a pipeline of stages: what one rank runs, and what travels
load      from a folder to a token loop
"""
