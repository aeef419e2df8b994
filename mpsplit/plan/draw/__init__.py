"""Pictures of a plan, for a page and for a terminal.

plan_columns   which ranks are drawn as one, and what they have
plan_words     what both pictures say in words and numbers
plan_places    where things are in the picture, in pixels
svg_elements   rectangles, lines and words as SVG
svg_cards      the card of each column: names and numbers
svg_map        the model from embedding to head, and the links below
plan_svg       the picture
plan_text      the same for a terminal
"""
