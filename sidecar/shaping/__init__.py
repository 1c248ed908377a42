"""The shaping room: shaping files in; merged blocks, rules and site names out.

Knows files, merging, the egress path options, MX and rules.  Knows nothing of
logs or state.
"""
