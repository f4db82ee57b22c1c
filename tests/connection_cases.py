"""What callers and attackers do to a connection, and what is to come of it: the table.

`tests.test_connection_cases` tries each of these over real sockets.
"""

import json
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from tests.in_thread import get, post
from tests.tiny import GOOD

PATH: Final = "/predict/tiny"
BODY: Final = json.dumps(GOOD).encode()
ASK: Final = post(PATH, BODY)
MODELS: Final = get("/models")
SMUGGLED: Final = post("/predict/smuggled", b"{}")
"""A request that nobody sends: it stands in a body, for whoever sees the body's end elsewhere."""

MAX_BODY: Final = 20_000
MAX_HEAD: Final = 4_096
TIMEOUT: Final = 0.5
"""Settings of the server that the cases are for."""

End = Literal["half close", "close", "reset"]


class Case(NamedTuple):
    """A connection.

    Attributes:
        sends: bytes, pauses in seconds, and how the caller ends it.
        answers: the statuses that come, in order.
        is_kept: whether the connection then takes another request; else the server closes it.
    """

    sends: tuple[bytes | float | End, ...]
    answers: tuple[int, ...]
    is_kept: bool = False


def head(*lines: str, first: str = f"POST {PATH} HTTP/1.1") -> bytes:
    """A request's head, good but for what these lines say."""
    usual = [first, "Host: test", "Content-Type: application/json"]
    return "\r\n".join([*usual, *lines]).encode("latin-1") + b"\r\n\r\n"


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def slowly(content: bytes) -> tuple[bytes | float | End, ...]:
    """A byte, a pause, and so on: no pause is long, but it never ends."""
    return tuple(step for byte in content for step in (bytes([byte]), TIMEOUT / 10))


def refused(sent: bytes, status: int = 400) -> Case:
    return Case((sent,), (status,))


def answered(sent: bytes) -> Case:
    return Case((sent,), (200,), is_kept=True)


TE: Final = "Transfer-Encoding: chunked"
SIZE: Final = len(BODY)
CL: Final = f"Content-Length: {SIZE}"
CHUNKED: Final = head(TE)


def _two_ends() -> Iterator[tuple[str, Case]]:
    """Heads that say twice, or not clearly, where the body ends: a request is in the difference."""
    hidden = b"0\r\n\r\n" + SMUGGLED
    both = f"Content-Length: {len(hidden)}"
    for name, lines in {
        "a length, then chunks": (both, TE),
        "chunks, then a length": (TE, both),
        "chunks and a length of 0": (TE, "Content-Length: 0"),
        "chunks, named last but one": (both, "Transfer-Encoding: chunked, identity"),
        "chunks, twice": (both, TE, TE),
        "chunks, then identity": (both, TE, "Transfer-Encoding: identity"),
        "chunks in capitals": (both, "TRANSFER-ENCODING: CHUNKED"),
        "something like chunks": (both, "Transfer-Encoding: xchunked"),
        "chunks behind a tab": (both, "Transfer-Encoding:\tchunked"),
        "chunks behind a vertical tab": (both, "Transfer-Encoding: \x0bchunked"),
        "chunks behind a NUL": (both, "Transfer-Encoding: \x00chunked"),
        "chunks in quotes": (both, 'Transfer-Encoding: "chunked"'),
        "chunks before a comma": (both, "Transfer-Encoding: chunked,"),
        "a space before the colon": (both, "Transfer-Encoding : chunked"),
        "a folded coding": (both, "Transfer-Encoding:\r\n chunked"),
        "a line that ends with LF": (both, "X: y\nTransfer-Encoding: chunked"),
        "a line that ends with CR": (both, "X: y\rTransfer-Encoding: chunked"),
        "no coding": (both, "Transfer-Encoding:"),
        "identity": ("Transfer-Encoding: identity",),
        "chunks, then an unknown coding": ("Transfer-Encoding: chunked, x",),
    }.items():
        yield f"two ends: {name}", refused(head(*lines) + hidden)
    longer = f"Content-Length: {SIZE + len(SMUGGLED)}"
    for name, lines in {
        "another": (longer, CL),
        "the same twice": (CL, CL),
        "a list": (f"Content-Length: {SIZE}, {SIZE}",),
        "a sign": (f"Content-Length: +{SIZE}",),
        "below 0": ("Content-Length: -1",),
        "hexadecimal": (f"Content-Length: {SIZE:#x}",),
        "two numbers": (f"Content-Length: {SIZE} {SIZE}",),
        "none": ("Content-Length:",),
        "an underscore": ("Content-Length: 1_0",),
        "more than 64 bits": (f"Content-Length: {2**64 + SIZE}",),
        "a digit that is none of ASCII's": ("Content-Length: \xb2",),
    }.items():
        yield f"a length: {name}", refused(head(*lines) + BODY + SMUGGLED)
    for name, lines in {
        "spaces around it": (f"Content-Length: \t {SIZE} \t",),
        "zeros before it": (f"Content-Length: 000{SIZE}",),
        "a header of a similar name": ("Content_Length: 5", CL),
    }.items():
        yield f"a length: {name}", answered(head(*lines) + BODY)


def _chunks() -> Iterator[tuple[str, Case]]:
    for name, sent in {
        "no number": b"zz\r\n%b\r\n0\r\n\r\n" % BODY,
        "below 0": b"-1\r\n%b\r\n0\r\n\r\n" % BODY,
        "a prefix": b"0x%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
        "a space behind": b"%x \r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
        "a space before": b" %x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
        "nothing": b"\r\n%b\r\n0\r\n\r\n" % BODY,
        "more than 64 bits": b"%x\r\n%b\r\n0\r\n\r\n" % (2**64 + SIZE, BODY),
        "LF behind": b"%x\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
        "LF in an extension": b"%x;a\nb\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
        "CR in an extension": b"%x;a\rb\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
        "NUL in an extension": b"%x;a\x00b\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
    }.items():
        yield f"a chunk's size: {name}", refused(CHUNKED + sent + SMUGGLED)
    for name, sent in {
        "longer than it says": b"%x\r\n%bX\r\n0\r\n\r\n" % (SIZE, BODY),
        "ended by LF": b"%x\r\n%b\n0\r\n\r\n" % (SIZE, BODY),
        "the last ended by LF": b"%x\r\n%b\r\n0\n\n" % (SIZE, BODY),
        "a trailer without a colon": chunked(BODY, end=b"0\r\nnone\r\n\r\n"),
    }.items():
        yield f"a chunk: {name}", refused(CHUNKED + sent + SMUGGLED)
    for name, sent in {
        "small ones": chunked(*(bytes([byte]) for byte in BODY)),
        "an extension": b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
        "a quoted extension": b'%x;a="b;c"\r\n%b\r\n0;x\r\n\r\n' % (SIZE, BODY),
        "zeros before its size": b"000%X\r\n%b\r\n000\r\n\r\n" % (SIZE, BODY),
        "trailers": chunked(BODY, end=b"0\r\nX-Sum: y\r\nX-More: z\r\n\r\n"),
    }.items():
        yield f"a chunk: {name}", answered(CHUNKED + sent)
    too_many = chunked(*[b" " * 1_000] * (MAX_BODY // 1_000 + 1))
    yield "a body: too large, in chunks", refused(CHUNKED + too_many, 413)
    yield "a body: one huge chunk", refused(CHUNKED + b"fffffff\r\n" + b" " * (MAX_BODY + 1), 413)
    yield "a body: said to be too large", refused(head(f"Content-Length: {MAX_BODY + 1}"), 413)
    too_large = head(f"Content-Length: {MAX_BODY + 1}") + b" " * (MAX_BODY + 1)
    yield "a body: too large", refused(too_large, 413)


def _heads() -> Iterator[tuple[str, Case]]:
    good = head(CL)
    for name, sent in {
        "lines that end with LF": good.replace(b"\r\n", b"\n"),
        "lines that end with CR": good.replace(b"\r\n", b"\r"),
        "one line that ends with LF": head(CL, "A: b\nC: d"),
        "an end of LF": good.removesuffix(b"\r\n") + b"\n",
        "a bare CR": head(CL, "A: b\rC: d"),
        "NUL in a value": head(CL, "A: \x00"),
        "a control character in a value": head(CL, "A: \x07"),
        "NUL in a name": head(CL, "A\x00: b"),
        "a space in a name": head(CL, "A b: c"),
        "no name": head(CL, ": c"),
        "no colon": head(CL, "Abc"),
        "a letter that is none of ASCII's in a name": head(CL, "A\xe9: c"),
        "a folded value": head(CL, "A: b\r\n c"),
        "a folded first line": good.replace(b"Host", b" Host"),
        "a space first": b" " + good,
        "another version": head(CL, first=f"POST {PATH} HTTP/9.9"),
        "a version of two digits": head(CL, first=f"POST {PATH} HTTP/1.10"),
        "a version in small letters": head(CL, first=f"POST {PATH} http/1.1"),
        "an address with a space": head(CL, first=f"POST {PATH} x HTTP/1.1"),
        "an address with NUL": head(CL, first=f"POST {PATH}\x00 HTTP/1.1"),
        "an address with a control character": head(CL, first=f"POST {PATH}\x01 HTTP/1.1"),
        "no address": head(CL, first="POST  HTTP/1.1"),
        "an address without a slash": head(CL, first="POST predict/tiny HTTP/1.1"),
        "an absolute address that is none": head(CL, first=f"POST http://x:99999{PATH} HTTP/1.1"),
        "a method that is none": head(CL, first=f"P@ST {PATH} HTTP/1.1"),
        "a method in small letters": head(CL, first=f"post {PATH} HTTP/1.1"),
        "an unknown method": head(CL, first=f"BREW {PATH} HTTP/1.1"),
        "what a proxy says first": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + good,
    }.items():
        yield f"a head: {name}", refused(sent + BODY)
    for name, sent in {
        "an empty line first": b"\r\n" + good,
        "a value of any bytes": head(CL, "A: \xe9\xff"),
        "no host": good.replace(b"Host: test\r\n", b""),
        "an absolute address": head(CL, first=f"POST http://test{PATH} HTTP/1.1"),
        "an absolute address and a query": head(
            CL, first=f"POST https://test:1{PATH}?version=1 HTTP/1.1"
        ),
        "an escaped address": head(CL, first="POST /predict/%74iny HTTP/1.1"),
    }.items():
        yield f"a head: {name}", answered(sent + BODY)
    at_all = b"GET /models HTTP/1.1\r\nHost: x\r\n"
    yield "a head: too large", refused(head(CL, "A: " + "b" * MAX_HEAD) + BODY, 431)
    yield "a head: too many", refused(at_all + b"A: b\r\n" * MAX_HEAD + b"\r\n", 431)
    yield "no HTTP: TLS", refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\1" * 99)
    yield "no HTTP: every byte", refused(bytes(range(256)))
    yield "no HTTP: HTTP/2", refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9)


def _methods() -> Iterator[tuple[str, Case]]:
    for target in (PATH, "example.org:443", "*", "/"):
        yield f"a tunnel to {target}", refused(head(first=f"CONNECT {target} HTTP/1.1"))
    yield "TRACE", Case((head(first=f"TRACE {PATH} HTTP/1.1"),), (405,), is_kept=True)
    yield "OPTIONS *", Case((head(first="OPTIONS * HTTP/1.1"),), (404,), is_kept=True)
    body = f"Content-Length: {len(SMUGGLED)}"
    unread = head(body, first="GET /models HTTP/1.1") + SMUGGLED
    yield "a body that nobody reads", Case((unread,), (200,))
    yield (
        "a body behind a refusal",
        refused(head(body, first=f"DELETE {PATH} HTTP/1.1") + SMUGGLED, 405),
    )


def _together() -> Iterator[tuple[str, Case]]:
    """Several requests of one connection."""
    yield "pipelined: predictions", Case((ASK * 300,), (200,) * 300, is_kept=True)
    mixed = (ASK, MODELS, post(PATH, b"{"), ASK, get("/nowhere"), get("/health/live"), ASK)
    yield (
        "pipelined: all kinds",
        Case((b"".join(mixed),), (200, 200, 400, 200, 404, 200, 200), is_kept=True),
    )
    yield (
        "pipelined: cut anywhere",
        Case(
            (ASK + MODELS[:9], 0.02, MODELS[9:] + ASK[:-9], 0.02, ASK[-9:] + ASK),
            (200, 200, 200, 200),
            is_kept=True,
        ),
    )
    yield (
        "pipelined: chunks and lengths",
        Case(((CHUNKED + chunked(BODY) + ASK) * 3,), (200,) * 6, is_kept=True),
    )
    yield (
        "pipelined: behind the last",
        Case((head(CL, "Connection: close") + BODY + SMUGGLED,), (200,)),
    )
    yield "pipelined: no HTTP behind", Case((ASK + b"\0\r\n\r\n",), (200, 400))
    yield (
        "pipelined: two ends behind",
        Case((ASK + MODELS + head(CL, TE) + chunked(BODY) + SMUGGLED,), (200, 200, 400)),
    )
    yield (
        "pipelined: a tunnel behind",
        Case((ASK + head(first=f"CONNECT {PATH} HTTP/1.1") + SMUGGLED,), (200, 400)),
    )


def _versions() -> Iterator[tuple[str, Case]]:
    old = post(PATH, BODY, version="1.0")
    yield "HTTP/1.0", Case((old,), (200,))
    yield (
        "HTTP/1.0: to be kept",
        Case((post(PATH, BODY, "Connection: keep-alive", version="1.0"),), (200,)),
    )
    yield "HTTP/1.0: another behind", Case((old + SMUGGLED,), (200,))
    in_chunks = head(TE, "Connection: keep-alive", first=f"POST {PATH} HTTP/1.0")
    yield "HTTP/1.0: in chunks", Case((in_chunks + chunked(BODY) + SMUGGLED,), (200,))
    no_wait = head(CL, "Expect: 100-continue", first=f"POST {PATH} HTTP/1.0")
    yield "HTTP/1.0: waits to be told to go on", Case((no_wait + BODY,), (200,))
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    yield "an upgrade: h2c", Case((head(CL, *upgrade) + BODY + ASK,), (200, 200), is_kept=True)
    web = head("Connection: Upgrade", "Upgrade: websocket", first="GET /models HTTP/1.1")
    yield "an upgrade: websocket", Case((web + ASK,), (200, 200), is_kept=True)
    yield "an upgrade: to nothing", answered(head(CL, "Connection: Upgrade") + BODY)
    waits = head(CL, "Expect: 100-continue")
    yield "Expect: answered, then sent", Case((waits, 0.1, BODY), (100, 200), is_kept=True)
    yield "Expect: something else", answered(head(CL, "Expect: nonsense") + BODY)
    yield "Expect: without a body", answered(MODELS[:-2] + b"Expect: 100-continue\r\n\r\n")
    large = head("Expect: 100-continue", f"Content-Length: {MAX_BODY + 1}")
    yield "Expect: too large a body", refused(large, 413)


def _ends() -> Iterator[tuple[str, Case]]:
    """Callers that leave."""
    many = post(PATH, json.dumps([GOOD] * 40).encode())
    yield "half closed: behind a request", Case((ASK, "half close"), (200,))
    yield "half closed: behind a list", Case((many, "half close"), (200,))
    yield (
        "half closed: behind several",
        Case((ASK + MODELS + many + ASK, "half close"), (200, 200, 200, 200)),
    )
    yield "half closed: behind a request and a half", Case((ASK + ASK[:30], "half close"), (200,))
    yield "half closed: behind nothing", Case(("half close",), ())
    yield "half closed: in a head", Case((ASK[:30], "half close"), ())
    yield "half closed: in a body", Case((ASK[:-5], "half close"), ())
    yield "half closed: in a chunk", Case((CHUNKED + b"5\r\n{", "half close"), ())
    ends: tuple[End, End] = ("close", "reset")
    for end in ends:
        for name, sent in {
            "before anything": b"",
            "in a head": ASK[:30],
            "in a body": ASK[:-5],
            "in a chunk": CHUNKED + b"5\r\n{",
            "behind a list": many,
            "behind many": many * 50,
        }.items():
            yield f"{end}: {name}", Case((sent, end), ())


SLOW: Final[dict[str, Case]] = {
    "nothing": Case((), ()),
    "half of a head": Case((ASK[:30],), ()),
    "a head, byte by byte": Case(slowly(ASK[:60]), ()),
    "half of a second head": Case((ASK + ASK[:30],), (200,)),
    "a head without its body": Case((head(CL),), (400,)),
    "half of a body": Case((ASK[:-5],), (400,)),
    "a body, byte by byte": Case((head(CL), *slowly(BODY[:60])), (400,)),
    "no chunk": Case((CHUNKED,), (400,)),
    "half of a chunk": Case((CHUNKED + b"5\r\n{",), (400,)),
    "chunks, one by one": Case((CHUNKED, *[b"1\r\n \r\n", TIMEOUT / 10] * 60), (400,)),
    "half of a chunk's size": Case((CHUNKED + b"5",), (400,)),
    "half of a trailer": Case((CHUNKED + chunked(BODY, end=b"0\r\nX"),), (400,)),
    "told to go on, and does not": Case((head(CL, "Expect: 100-continue"),), (100, 400)),
    "an old version's HTTP": Case((b"GET /models\r\n",), ()),
}
"""Callers that stop, or never end."""

CASES: Final[dict[str, Case]] = {
    name: case
    for part in (_two_ends, _chunks, _heads, _methods, _together, _versions, _ends)
    for name, case in part()
}
