"""The share room: what the sidecars of a group tell each other, through Redis or Valkey.

In: portions of this host's log (the lines that a rule matched, with the lines they
stand at), words of operators, a place to read on from.  Out: what the other hosts
said, each thing once, with the place behind it; which segments must be told again;
how the engine does; who else is in the group.  Knows nothing of rules, state and
decisions: a line is bytes, a word and a sum of attempts are JSON that it never reads.

The interface::

    settings = ShareSettings(read_url(text), name="mail", host="mx1", age=90_000.0)
    async with connect(settings, clock=time.time_ns) as share:
        share.offer(Portion("segment", 120, 180, (Item(131, "line", b"{...}"),)))
        share.say("order-1", '{"cancel": "..."}')
        async for received in share.receive(place):
            received.items      # tuple[Received, ...]: host, segment, line, kind, data, fresh
            received.place      # to be committed with their effects
        share.finish("20261127-060000")  # all with lesser names are read to their ends
        share.behind()          # {segment: (from_line, to_line)}: to be offered again
        share.health            # how it is, for status and metrics
        share.hosts()           # who is in the group

``offer`` and ``say`` never block, and are called on the loop's thread, as everything
here.  Nothing raises because of the engine: what is wrong with it is in ``health``.

**In the engine** a group ``NAME`` has these keys, in one slot of a Cluster:

``tsa-sidecar:{NAME}:stream``
    The items, oldest first; trimmed by age and by number.
``tsa-sidecar:{NAME}:positions:HOST``
    ``SEGMENT`` → ``LINE MS``: how far that segment of the host is in the stream, and when
    it last moved.  ``/told`` → ``EPOCH NAME``: the data that they are of, and the watermark.
``tsa-sidecar:{NAME}:group``
    ``epoch``: a random id that tells a flushed engine; ``added``: items ever appended.
``tsa-sidecar:{NAME}:hosts``
    ``HOST`` → ``MS JSON``: what a host last said of itself.

**Appended once.**  A portion is what was found among lines `from_line` + 1 to
`to_line` of a segment.  One script compares `from_line` with the position, appends,
and moves the position.  What is sent again is therefore not appended again, and what
the engine has lost is noticed at the next portion: it answers with the position it
has, and the segment is *behind* from there.  The engine's positions are the only
authority; this side remembers only how far the service has read (:mod:`.outgoing`).

**The watermark.**  A position for each segment of a week would be too much.  Names of
segments are times, so they sort.  Where all segments of a host below a name are read to
their ends and told, the host moves its watermark to that name: in one step the engine
drops the positions below it, and an entry tells so behind all that it covers.  Who reads
that drops its marks, and remembers the watermark.  From then on what is offered below
it counts as appended, and what is read below it as read.  So nothing may ever be told under
such a name that was not told before.  A segment that appears or grows below the watermark
(the clock was set back, a file was copied here) is told under another name, which no
watermark covers: ``late_name``.  The service keeps in its state file up to where it may
be covered, and which segments came late; it hands over only what is committed.

**Read once.**  A place holds the stream's id, and for each segment of the others the
line up to which it is read.  Another epoch, another process of the engine, or a stream
that ends before the place: it is read again from its beginning, and the lines tell
what is new (:mod:`.place`).

**What the service must do.**  Call ``expect`` for each segment with the line up to
which it has read, once at the start.  Then keep at ``behind``: read the segment from
`from_line` on and pass portions to ``offer_when_room``, until it is not listed any more
or can't be read any more (``forget``).  A segment's name must never stand for another
content: what has the same name is taken for told.  Say again, at the start and when
``unsaid`` names it, each word that is younger than ``age``, and no older one.  Lines older than
``age`` may be told twice: whoever decides must look at a record's own time.

**Rights.**  A user of the engine needs the keys ``~tsa-sidecar:{NAME}:*`` and ``+eval
+evalsha +exists +hget +hset +hgetall +hdel +hincrby +del +time +xadd +xtrim +xread
+xrevrange``; with ``+info`` a connection that is made again need not read the stream from
its beginning.  Who may write there can tell the group anything: the rights are the fence.

**The client** is redis-py (MIT, asyncio, TLS, ACL users; a release every month or two;
in Debian).  valkey-py is its fork, with one or two releases a year.  valkey-glide has no
unix sockets, brings 17 MB of native code and threads of its own.  Only commands that
Redis 6.2 and every Valkey have are used, in RESP2, over the library's plain connections:
its pools and retries would hide that the engine behind an address is another one.
hiredis parses the answers: in Python that costs more than everything else here.
"""

from __future__ import annotations

from .address import Address, read_url
from .health import Counts, Health
from .items import Item, Kind, Portion, Received, comes_before, first_line, late_name, own_name
from .outgoing import Behind
from .place import Batch, Mark, Place, Watermark
from .presence import HostSeen, Presence
from .settings import Pace, ShareSettings
from .sharing import Share, connect, has_client

__all__ = [
    "Address",
    "Batch",
    "Behind",
    "Counts",
    "Health",
    "HostSeen",
    "Item",
    "Kind",
    "Mark",
    "Pace",
    "Place",
    "Portion",
    "Presence",
    "Received",
    "Share",
    "ShareSettings",
    "Watermark",
    "comes_before",
    "connect",
    "first_line",
    "has_client",
    "late_name",
    "own_name",
    "read_url",
]
