"""What a plan costs before anything runs: seconds, bytes of memory, bytes between ranks.

sizes          bytes on each rank: weights, cache, the rest; Job says what is asked of the plan
message_times  the messages that collectives are made of, and how long they take
making         bytes on each rank while a package is made
cost           seconds by formula
simulation     seconds by playing the plan out, message by message
rank_clocks    the clocks that the simulation moves, one a rank
weather        what takes longer in a simulation than it should
"""
