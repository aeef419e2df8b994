"""What a package holds, for people.

anatomy          which part of the model each layer of a graph belongs to
canonical_graph  a graph without its names and order
rank_contents    what a rank holds, part by part, in bytes
difference       what differs between two packages
inspection       all of it, as text or a dict
"""
