"""A rank's graph, drawn.

chart          boxes and lines, equal layers once
chart_colours  what the boxes look like
chart_svg      as a picture
chart_dot      as text for graphviz
"""
