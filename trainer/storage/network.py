"""Which failures of a network may pass by themselves."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
from collections.abc import Iterator

_PASSING = {408, 425, 429}
"""HTTP answers below 500 that ask for another try: RFC 9110 and RFC 6585."""


def may_pass(error: BaseException) -> bool:
    """True where the network or a server failed, not what was asked for.

    An answer such as 404, a certificate that nobody vouches for and a file that is not
    what it should be stay as they are, however often one tries.

    Args:
      error: with all that it came from; the first of these that says something decides.
    """
    for each in _chain(error):
        if isinstance(each, urllib.error.HTTPError):
            return each.code >= 500 or each.code in _PASSING
        if isinstance(each, ssl.SSLCertVerificationError):
            return False
        if isinstance(each, urllib.error.URLError):
            return not isinstance(each.reason, ssl.SSLCertVerificationError)
        if isinstance(each, ConnectionError | TimeoutError | http.client.HTTPException):
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, the one that caused it, and so on."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__
