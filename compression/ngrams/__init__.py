"""A student without layers: a table row for each n-gram of a text's token ids, and their sum."""
