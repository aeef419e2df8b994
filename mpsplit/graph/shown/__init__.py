"""A package's graph, its memory and its picture.

engine_view       the graph of an engine, as it stands in a package
arena             where each value lies in one arena
graph_chart       boxes and lines, for pictures
graph_inspection  all of it, as text or a dict
"""
