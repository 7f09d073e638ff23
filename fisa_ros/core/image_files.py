"""Whether image files are whole: decoders fill what is missing with grey and do not say so."""

_JPEG_START = b'\xff\xd8\xff'
_JPEG_PIXELS = 0xDA
_JPEG_END = b'\xff\xd9'
_PNG_START = b'\x89PNG\r\n\x1a\n'
_PNG_END = b'IEND\xaeB`\x82'


def is_cut_off(content: bytes) -> bool:
    """Tell whether a jpeg or png file lacks its end; False for a file of another kind.

    What follows the end, as zeros of some cameras and films of some telephones do, does not count.
    """
    if content.startswith(_PNG_START):
        return _PNG_END not in content
    return content.startswith(_JPEG_START) and content.find(_JPEG_END, _find_jpeg_pixels(content)) < 0


def _find_jpeg_pixels(content: bytes) -> int:
    """Return where the pixels of a jpeg file begin: a small picture with an end of its own may come before them."""
    at = len(_JPEG_START) - 1
    while content[at : at + 1] == b'\xff' and content[at + 1 : at + 2] != bytes([_JPEG_PIXELS]):
        if content[at + 1 : at + 2] == b'\xff':
            at += 1
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return at
