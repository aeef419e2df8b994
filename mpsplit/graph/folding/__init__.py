"""Equal layers as one that repeats, and back.

folded_layers   a graph in which equal rounds of steps are a repeat
rounds          which steps follow each other in equal rounds
name_templates  names that differ by numbers, as one name with an index
unfolding       repeats written out, turn by turn
"""
