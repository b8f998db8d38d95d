"""Use cases over the engine; only routes and problems know of HTTP."""
