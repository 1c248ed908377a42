"""The regex dialect of KumoMTA's rules, Rust's ``fancy-regex``, run safely in Python.

In: a regex as a rule has it.  Out: a :class:`~.pattern.Pattern` that finds it in
a response, or a :class:`~.errors.PatternError` that says why KumoMTA refuses it.

A regex is parsed into a tree (:mod:`.parse`, :mod:`.nodes`), checked as
fancy-regex checks it (:mod:`.check`) and written again for google-re2 or for the
``regex`` module (:mod:`.translate`).  From the tree come, too, the literals that
any match must contain (:mod:`.literals`) and why a regex can never match a
response (:mod:`.never`).

The dialect is that of fancy-regex 0.16 (KumoMTA's ``Cargo.lock``) on top of
Rust's regex-syntax 0.8.  What they accept and mean was worked out from their
documentation and by asking the real crates.  ``packaging/doc/regex.md`` says
what is promised.
"""
