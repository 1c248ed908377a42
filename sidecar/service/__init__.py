"""The service room: the other rooms wired together, with time, signals and reload.

Decides nothing itself: what is decided, the automation room decides.
"""
