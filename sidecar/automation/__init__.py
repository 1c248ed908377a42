"""The automation room: the pure core.  Records and a time in; what changed, out.

Knows rules, thresholds, entries in force and the overlay as text.  Knows no
files, sockets, threads or clocks: the time is an argument.
"""
