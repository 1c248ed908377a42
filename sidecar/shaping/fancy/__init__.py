"""The regex language of KumoMTA's rules: Rust's ``fancy-regex``, parsed and translated.

In: a pattern as a rule has it.  Out: its syntax tree (:mod:`.nodes`), the same
pattern in the syntax of google-re2 or of the ``regex`` module (:mod:`.emit`),
and the literals that any match must contain (:mod:`.required`).

The language is that of fancy-regex 0.16 (KumoMTA's ``Cargo.lock``) on top of
Rust's regex-syntax 0.8; what they accept and mean was worked out from their
documentation and by asking the real crates.
"""
