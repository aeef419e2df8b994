"""How numbers lie in a package's files.

quantisation    how linear weights are stored: bits and block
recipe          which weight is stored how
float_weights   the file of floats, as ncnn lays it out
weight_files    which files hold a rank's weights, and where its packed matrices lie
rank_text       rank.txt: what one rank must know, for C++ that reads no JSON
parts_json      parts.json: what a rank of a decoder computes by IREE
embedding       rows of the embedding in 8 bits
embedding_rows  rows that a rank has, where they are mapped
"""
