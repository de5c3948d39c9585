"""
A local server that behaves like Mixpanel's raw export API and its Engage query API, with made-up events and profiles
and, on request, faults.

    from mpnb.sandbox import Fault, serve

    with serve(events_per_day=500, faults=[Fault("reset", day="2026-01-03")]) as mp:
        mpnb.export("2026-01-01", "2026-01-07", credentials=mp.credentials)

The kinds of ``Fault``. *at* means the position in the body that ``Fault.at`` sets; everything else is correct.

| kind              | what happens                                                                                     |
|-------------------|--------------------------------------------------------------------------------------------------|
| reset             | RST within the body, *at*                                                                        |
| reset_headers     | RST before any answer                                                                            |
| disconnect        | FIN before any answer                                                                            |
| cut_chunked       | chunked, and FIN *at* without the last chunk                                                     |
| cut_length        | Content-Length promises the whole body, FIN *at*                                                 |
| cut_close         | ``Connection: close`` with neither length nor chunks, and the body just ends *at* (gzip only)    |
| unframed          | the same, and the body is whole (harmless)                                                       |
| twice             | the whole answer is sent once more after it, on the same connection (harmless)                   |
| plain             | not compressed, with Content-Length, however large (harmless)                                    |
| gzip_cut          | correctly framed, but the gzip stream ends *at*                                                  |
| gzip_crc          | the last member's CRC is wrong                                                                   |
| gzip_size         | the last member's size is wrong                                                                  |
| gzip_garbage      | bytes that are not gzip follow the last member                                                   |
| gzip_header       | ``Content-Encoding: gzip``, but the body is plain                                                |
| gzip_fields       | each gzip header has every field that it may have: name, comment, checksum … (harmless)          |
| gzip_nothing      | ``Content-Encoding: gzip``, and an empty body                                                    |
| terminated        | lines up to *at*, then the line ``terminated early``; transport and gzip are correct             |
| export_terminated | the same with ``export terminated early``                                                        |
| terminated_inside | the line ``terminated early`` *at*, and further lines after it                                   |
| terminated_only   | the body is only ``terminated early``                                                            |
| half_line         | lines up to *at*, then half a line; transport and gzip are correct                               |
| error_line        | the last line is ``{"error": …}``                                                                |
| other_days        | the answer is for the same number of days, four weeks earlier                                    |
| error_inside      | the line ``{"error": …}`` *at*, and further lines after it                                       |
| bad_lines         | ``Fault.lines`` (or ``BAD_LINES``: not JSON, or not an event) among a day's lines, *at*          |
| status            | ``Fault.status`` with ``body``, ``retry_after`` and ``headers``                                  |
| sign_in           | 200 with a sign-in page (or ``body``), as a proxy answers instead of Mixpanel                    |
| too_many_504      | 504 with ``Too many requests``, as a load balancer answers                                       |
| too_large         | 400 with ``your data export may be too large``, only if more than one day is asked for           |
| redirect          | 302 to the ``Location`` of ``headers``, or to the same path at another origin (``localhost``)    |
| redirect_same     | 307 to the same host and path, where the answer is correct                                       |
| stall             | silence of ``Fault.seconds`` *at*, then the rest                                                 |
| slow_start        | silence of ``Fault.seconds`` before the first byte                                               |
| hang              | silence *at*, until the client leaves or the server closes                                       |
| hang_start        | the same before any answer                                                                       |
| drip              | from *at*, a blank line every tenth of a second, until the client leaves (not compressed)        |
| bomb              | gzip of ``Fault.size`` newlines (or ``body``'s first letter), 4 GiB by default                   |
| long_line         | one event of ``Fault.size`` bytes on one line, gzip, 2 GiB by default                            |
| encoding_br       | ``Content-Encoding: br``, and a body that is not                                                 |
| encoding_zstd     | the same with ``zstd``                                                                           |
| unlabelled        | the body is gzip, but no header says so                                                          |
| charset           | ``Content-Type: text/plain; charset=latin-1``, but the body is UTF-8 (harmless)                  |

These are for profiles, and strike a page, which ``Fault.page`` can name. So do those above, but for the ones that act
on lines of events.

| kind              | what happens                                                                                     |
|-------------------|--------------------------------------------------------------------------------------------------|
| page_lost         | the page has no profiles                                                                         |
| page_short        | the last profile of the page is missing                                                          |
| page_twice        | the last profile of the page before stands in the place of the first                             |
| page_error        | 200 with ``{"error": …, "status": "error"}``                                                     |
| page_other        | the answer says that it is the next page                                                         |
| session_other     | the answer says that it is of another session                                                    |
| session_expired   | 400, and the session is gone                                                                     |
| page_size         | 400, only if the request has a ``page_size``                                                     |
| profile_inserted  | before the page is served, a profile comes in at the front: all others move                      |
| profile_deleted   | before the page is served, the first profile goes: all others move                               |
| profile_swapped   | before the page is served, the first profile goes and another comes in at the end                |

A request gets the first fault that applies to it and is not used up. ``bad_lines`` and ``charset`` combine with another
fault. A fault that would have no effect, such as a gzip fault for a client that does not accept gzip, is not used up.
"""

from mpnb.sandbox._faults import BAD_LINES, Fault
from mpnb.sandbox._record import Request
from mpnb.sandbox._sandbox import Sandbox, serve

__all__ = ["BAD_LINES", "Fault", "Request", "Sandbox", "serve"]
