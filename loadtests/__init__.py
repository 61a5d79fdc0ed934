"""Load generators for a running bertpress service on this machine."""
