"""From logits to one token.

sampling    how a token is to be chosen
tilt        penalties and logit_bias, told to the ranks change by change
answers     what a rank answers about its slice of the logits; extensions/choose is the same in C++
candidates  what rank 0 reads of it
choosing    from answers to one token, on rank 0
cells       where a few candidates do not tell
draws       the randomness
lexicon     the bytes of each token, and answers that must be JSON
"""
