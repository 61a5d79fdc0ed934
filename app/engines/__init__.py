"""One runtime per file behind one protocol."""

from app.engines.base import Engine, available_engines, load_engine

__all__ = ["Engine", "available_engines", "load_engine"]
