"""Build to build: fewer bits after export."""
