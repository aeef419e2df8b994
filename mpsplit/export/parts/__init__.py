"""A decoder by IREE: each rank's graph in parts, which are programs, and collectives between them.

rank_parts     the graph cut where ranks talk and where layers end, with caches in and out
convert_parts  `convert --compiler iree`: every rank's parts, compiled, and the package
"""
