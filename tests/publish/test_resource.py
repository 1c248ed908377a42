"""Bodies, their gzipped forms and their entity tags."""

from __future__ import annotations

import gzip

import pytest

from sidecar.publish.resource import TEXT, Resource, accepts_gzip, etag_matches


def test_the_bytes_are_made_once_and_only_when_asked_for() -> None:
    made: list[int] = []

    def build() -> bytes:
        made.append(1)
        return b"text" * 1000

    resource = Resource(TEXT, build)
    assert made == []
    plain = resource.representation(zipped=False)
    zipped = resource.representation(zipped=True)
    assert resource.representation(zipped=True) is zipped
    assert made == [1]
    assert gzip.decompress(zipped.body) == plain.body == b"text" * 1000
    assert len(zipped.body) < 200
    assert (plain.encoding, zipped.encoding) == (None, "gzip")
    assert plain.etag != zipped.etag


def test_the_same_text_has_the_same_tag_another_text_another() -> None:
    def tag(text: bytes) -> str:
        return Resource(TEXT, lambda: text).representation(zipped=True).etag

    assert tag(b"a") == tag(b"a") != tag(b"b")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("br, *;q=0.1", True),
        ("notgzip", False),
        (",;,;;q=0,", False),
    ],
)
def test_who_asks_for_gzip_gets_it(header: str | None, expected: bool) -> None:
    assert accepts_gzip(header) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", W/"y" , "abc"', True),
        ("*", True),
        ("abc", False),
        ('"abcd"', False),
        ('"', False),
    ],
)
def test_if_none_match(header: str | None, expected: bool) -> None:
    assert etag_matches(header, '"abc"') is expected
