"""The best plan for these machines, any number of them, however unequal.

solver         the search: which devices, grouped how, in which order, with how much each
routes         the way from layer to layer through groups of devices that costs the least
stage_times    what a group of devices takes for a number of layers
shares         how the ranks of one stage divide it
stage_part     one part of a stage: heads, columns or rows, and what so many steps of it cost
fitting        all parts of a stage at once, where memory binds
remedies       what would make a model fit that does not
alternatives   other plans, to compare with
"""
