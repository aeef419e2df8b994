"""Pictures of a plan, for a page and for a terminal.

plan_columns   which ranks are drawn as one, and how numbers are said
plan_places    where things are in the picture, in pixels
svg_elements   rectangles, lines and words as SVG
plan_svg       the picture
plan_text      the same for a terminal
"""
