"""From logits to one token.

sampling    how a token is to be chosen
candidates  what each rank sends of its logits
choosing    from candidates to one token, on rank 0
lexicon     the bytes of each token, and answers that must be JSON
"""
