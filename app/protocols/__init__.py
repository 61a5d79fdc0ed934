"""One router per dialect, and what all of them share."""
