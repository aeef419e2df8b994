"""A package nobody can read without the key.

keys        the user's key, and those derived from it
vault       encrypted files that can be read in pieces
encryption  a package sealed, and back
opened      a package's files ready to be read, encrypted or not
"""
