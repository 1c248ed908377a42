"""The operators' tools: rules and a question in, the answer as values out.

What decides here is what decides in the service: the matcher, the automation,
the overlay.  These modules ask it and tell what it said; the commands in
:mod:`sidecar.cli` print that.
"""
