"""What can be taken out of a model: whole heads and neurons here; single weights, words and tokens later."""
