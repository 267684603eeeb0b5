"""What a command prints into, in odd locales and where it was started without."""

import io
import sys

import pytest

from pipeline.cli.streams import settle


@pytest.mark.parametrize(
    ("encoding", "errors", "printed"),
    [
        ("ascii", "strict", rb"\xe9 \udcff"),
        ("ascii", "surrogateescape", rb"\xe9 \udcff"),  # what Python makes of LC_ALL=C
        ("latin-1", "strict", b"\xe9 \\udcff"),
        ("utf-8", "strict", b"\xc3\xa9 \\udcff"),
        ("UTF8", "surrogateescape", b"\xc3\xa9 \xff"),  # can write any name already
    ],
)
def test_settle__stream_of_any_encoding__fails_for_no_letter(
    monkeypatch, encoding, errors, printed
):
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding=encoding, errors=errors))
    settle()
    print("é \udcff", end="", flush=True)
    assert held.getvalue() == printed


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_settle__closed_stream__is_empty(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    settle()
    with getattr(sys, name) as stream:
        assert stream.read() == "" if name == "stdin" else stream.write("lost") == 4
