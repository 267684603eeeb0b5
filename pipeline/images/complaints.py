"""What a decoder's complaint about an image means: its reason code."""

_CUT = ("truncated", "not enough image data", "unexpected end", "not enough data", "eof")
_UNKNOWN = (
    "cannot handle",
    "unsupported",
    "not supported",
    "not yet supported",
    "unknown pixel mode",
    "unknown data organization",
    "unknown raw mode",
    "samples per pixel",
    "codec configuration",
    "string index out of range",  # planes beyond those of the mode
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a codec had no memory for what it was given, by Pillow's wording."""
    return "out of memory error" in str(error)


def reason(content: bytes, format: str, error: Exception) -> tuple[str, str]:
    """The reason code and detail of an image that Pillow cannot open or load."""
    message = str(error) or type(error).__name__
    if any(words in message.lower() for words in _CUT):
        return "truncated", message
    if (announced := _announced_bytes(content)) > len(content):
        return "truncated", f"{len(content)} of at least {announced} bytes are there"
    if any(words in message.lower() for words in _UNKNOWN):
        return "unsupported_mode", f"{format} of a kind not decoded ({message}); save it as PNG"
    if isinstance(error, SyntaxError):
        return "not_an_image", f"a {format} header is there, an image is not ({message})"
    return "corrupt", message


def _announced_bytes(content: bytes) -> int:
    """How long the header says the file is, at least: Pillow does not notice for these two."""
    if content.startswith(b"RIFF"):
        return 8 + int.from_bytes(content[4:8], "little")
    if content.startswith(b"II*\0"):
        return int.from_bytes(content[4:8], "little")
    if content.startswith(b"MM\0*"):
        return int.from_bytes(content[4:8], "big")
    return 0
