"""One rank's half at run time: its net, its KV cache, its communicator, the token loop. Never imports torch."""
