"""The publish room: what the core decided, out to kumod by every road.

Knows the overlay file, the HTTP listener and kumod's admin API.  Knows
nothing of how entries come about.
"""
