"""What IREE compiled, at run time.

iree_program  machine code and its weights, as a function
iree_engine   a decoder: a program a part, our communicator between them
"""
