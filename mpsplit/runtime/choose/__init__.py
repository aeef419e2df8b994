"""From logits to one token.

sampling  how to choose, and what each rank sends for it
choosing  from candidates to one token, on rank 0
lexicon   the bytes of each token, and answers that must be JSON
"""
