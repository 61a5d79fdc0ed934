"""What a student can learn from a teacher: one file per paper, each a small function."""
