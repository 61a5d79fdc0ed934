"""The offline suite: distil, prune, quantize, export, prove, measure, publish."""
