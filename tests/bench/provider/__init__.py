"""Which law of adjusting a limit serves a sender best?  ``python -m tests.bench.provider``.

A provider with a hidden limit, a sender with a limit of its own, one day in steps of a
second.  The provider refuses what exceeds its rate (a bucket of one minute), and blocks
whoever insists.  Compared with a sender that knows the hidden rate: the share of its mail
that was delivered, and the refused attempts per 1,000 delivered.

It is a small model: real providers have several limits, reputations and slower
memories.  Use it to compare, not to believe.
"""
