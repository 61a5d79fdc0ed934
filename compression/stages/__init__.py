"""The stages a recipe is made of: each kind a class with its settings, what it takes and gives, and its work.

A new kind is a class of `base.Stage` beside its relatives and a name in `kinds.Stage`.
"""
