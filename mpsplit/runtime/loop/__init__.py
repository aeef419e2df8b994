"""The token loop: requests in, tokens out, several at once. Rank 0 leads, the others follow.

loop_protocol  what is asked of the loop, and what it answers
faults         what a failure ends: one request, or all ranks
waiting_queue  requests that wait, and whose turn it is
live_request   one request while it waits and runs
any_loop       what this loop and that of a pipeline have in common
token_loop     the loop itself
orders         what rank 0 tells the others
order_numbers  the numbers that an order brings
verbs          the verbs of the orders, for Python and C++
orders_header  writes the orders down for C++
pulse          whether it turns, and when each rank last answered
led_ranks      all ranks as one engine, for rank 0
follow         a rank that follows
all_logits     the logits of every token on one rank
"""
