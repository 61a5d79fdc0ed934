"""Cascades: published versions asked one after the other, with thresholds that hold a floor of accuracy."""
