"""MX hosts and site names of domains: from zone files, or from the DNS with a memory.

In: a routing domain.  Out: an :class:`MxAnswer`; :class:`MxError` when there
is none.

========== ==================================================================
answer     what an answer is, and how MX records make one
offline    answers that ask nobody: zone files, or every domain its own host
resolver   the DNS, with its memory
backoff    whom not to ask for a while, so that silence costs no time
servers    which name servers are asked
mta_sts    the policy by which a domain leaves out some of its MX hosts
policies   where such a policy comes from: a TXT record and a page by HTTPS
========== ==================================================================
"""

from __future__ import annotations

from .answer import NEVER, MxAnswer, MxError, Resolver
from .offline import OfflineResolver, ZoneResolver
from .policies import PolicyServers
from .resolver import DnsResolver

__all__ = [
    "NEVER",
    "DnsResolver",
    "MxAnswer",
    "MxError",
    "OfflineResolver",
    "PolicyServers",
    "Resolver",
    "ZoneResolver",
]
