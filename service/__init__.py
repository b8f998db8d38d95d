"""Use cases over the engine; Flask only in `routes` and in the modules that shape its answers."""

__version__ = "0.1.0"
