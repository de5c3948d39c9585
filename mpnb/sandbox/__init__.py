"""
A local stand-in for Mixpanel's raw export API, with made-up events and, on request, every fault that is known.

    from mpnb.sandbox import Fault, serve

    with serve(events_per_day=500, faults=[Fault("reset", day="2026-01-03")]) as mp:
        mpnb.export("2026-01-01", "2026-01-07", credentials=mp.credentials)

The kinds of ``Fault``. *at* means that ``Fault.at`` says where in the body; all else is as in a sound answer.

| kind              | what happens                                                                                     |
|-------------------|--------------------------------------------------------------------------------------------------|
| reset             | RST in mid body, *at*                                                                            |
| reset_headers     | RST before any answer                                                                            |
| disconnect        | FIN before any answer                                                                            |
| cut_chunked       | chunked, and FIN *at* without the last chunk                                                     |
| cut_length        | Content-Length promises the whole body, FIN *at*                                                 |
| cut_close         | ``Connection: close`` with neither length nor chunks, and the body just ends *at* (gzip only)    |
| unframed          | the same, and the body is whole (harmless)                                                       |
| twice             | the whole answer once more behind it, on the same connection (harmless)                          |
| plain             | not compressed, with Content-Length, however large (harmless)                                    |
| gzip_cut          | framed right, and the gzip stream ends *at*                                                      |
| gzip_crc          | the last member's CRC is wrong                                                                   |
| gzip_size         | the last member's size is wrong                                                                  |
| gzip_garbage      | bytes that are not gzip follow the last member                                                   |
| gzip_header       | ``Content-Encoding: gzip``, and the body is plain                                                |
| gzip_fields       | each gzip header has every field that it may have: name, comment, checksum … (harmless)          |
| gzip_nothing      | ``Content-Encoding: gzip``, and not a byte of it                                                 |
| terminated        | lines up to *at*, then the line ``terminated early``; transport and gzip are right               |
| export_terminated | the same with ``export terminated early``                                                        |
| terminated_inside | the line ``terminated early`` *at*, and further lines behind it                                  |
| terminated_only   | the body is only ``terminated early``                                                            |
| half_line         | lines up to *at*, then half a line; transport and gzip are right                                 |
| error_line        | the last line is ``{"error": …}``                                                                |
| other_days        | the answer is for as many days that end four weeks before those that were asked for              |
| error_inside      | the line ``{"error": …}`` *at*, and further lines behind it                                      |
| bad_lines         | ``Fault.lines`` (or ``BAD_LINES``: no JSON, or no event) among a day's lines, *at*               |
| status            | ``Fault.status`` with ``body``, ``retry_after`` and ``headers``                                  |
| sign_in           | 200 with a page to sign in (or ``body``), as a proxy answers in Mixpanel's place                 |
| too_many_504      | 504 with ``Too many requests``, as a load balancer answers                                       |
| too_large         | 400 with ``your data export may be too large``, only if more than one day is asked for           |
| redirect          | 302 to the ``Location`` of ``headers``, or to the same path at another origin (``localhost``)    |
| redirect_same     | 307 to the same host and path, where the answer is sound                                         |
| stall             | silence of ``Fault.seconds`` *at*, then the rest                                                 |
| slow_start        | silence of ``Fault.seconds`` before the first byte                                               |
| hang              | silence *at*, until the client leaves or the server closes                                       |
| hang_start        | the same before any answer                                                                       |
| drip              | from *at* on a blank line every tenth of a second, until the client leaves (not compressed)      |
| bomb              | gzip of ``Fault.size`` newlines (or ``body``'s first letter), 4 GiB if not said                  |
| long_line         | one event of ``Fault.size`` bytes on one line, gzip, 2 GiB if not said                           |
| encoding_br       | ``Content-Encoding: br``, and the body is nonsense                                               |
| encoding_zstd     | the same with ``zstd``                                                                           |
| unlabelled        | the body is gzip, and no header says so                                                          |
| charset           | ``Content-Type: text/plain; charset=latin-1``, and the body is UTF-8 (harmless)                  |

A request is struck by the first fault that fits it and is not used up. ``bad_lines`` and ``charset`` strike along
with another. A fault that could not show, such as a gzip fault to a client that takes no gzip, is not used up.
"""

from mpnb.sandbox._faults import BAD_LINES, Fault
from mpnb.sandbox._record import Request
from mpnb.sandbox._sandbox import Sandbox, serve

__all__ = ["BAD_LINES", "Fault", "Request", "Sandbox", "serve"]
