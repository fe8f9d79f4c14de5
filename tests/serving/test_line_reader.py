"""Plain line reading, for pipes and where prompt_toolkit is missing."""

import io

import pytest

from danlu.serving.reader import LineReader


def read_all(data: bytes) -> list[str]:
    reader, texts = LineReader(io.BytesIO(data)), []
    while True:
        try:
            texts.append(reader.read())
        except EOFError:
            return texts


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"", []),
        ("你好\nhi".encode(), ["你好", "hi"]),
        (b"a\r\n\r\nb\n", ["a", "", "b"]),
        ("\ufeffa\n".encode(), ["a"]),
        (b"\xe8\x83\na\n", ["\udce8\udc83", "a"]),
        (b'"""\none\n two\n"""\nthree\n', ['"""\none\n two\n"""', "three"]),
        (b"\x00\n", ["\x00"]),
    ],
)
def test_lines_come_as_they_are(data: bytes, texts: list[str]) -> None:
    assert read_all(data) == texts
