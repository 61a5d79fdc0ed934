"""What runs inside a peer's own environment: no module here imports anything of bertpress."""
