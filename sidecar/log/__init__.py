"""The log room: segments that kumod writes, in; records with their positions, out.

Knows segments, their order and life cycle, compression, lines and records.
Knows nothing of rules or state.
"""
