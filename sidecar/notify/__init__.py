"""The notify room: what began and what ended, told to people and programs.

In: events, each once, with an id that stays; the targets of ``notify.toml``; the
time.  Out: rows for the state's outbox, which are committed together with the
effects that the events are about; then one message for many events, sent to each
target until it takes it.

The core is pure and knows no sockets, files or clocks: :mod:`.outbox` (what waits
for whom), :mod:`.message` (many events as one message), :mod:`.pace` (when to seal
one, when to try again).  Around it: :mod:`.file` reads the targets, :mod:`.sending`
brings one message to one target, :mod:`.delivery` keeps at it.

A message is sealed, and committed, before it is first sent.  So after a crash the
same message goes out again with the same id, and a receiver can drop the double.
"""
