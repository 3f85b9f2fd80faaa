"""What a program writes, as lines that people may want to see. Pure."""

from collections.abc import Callable

_CHARS_MAX = 64 * 1024
#: Names a directory that will have another name in a moment.
_NOT_WORTH_SAYING = b"Using Python "
_FAILING = (b"error:", b"E: ")


class Lines:
    """Passes lines on as they come, however long they are; from an error on, they are about a failure."""

    def __init__(self, say: Callable[[str, bool], None]) -> None:
        self._say = say
        self._rest = b""
        self._failing = False

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._pass_on(line)
        if len(self._rest) > _CHARS_MAX:
            self.end()

    def end(self) -> None:
        """Pass on what no line break came behind."""
        if self._rest:
            self._pass_on(self._rest)
        self._rest = b""

    def _pass_on(self, line: bytes) -> None:
        self._failing = self._failing or line.startswith(_FAILING)
        if not line.startswith(_NOT_WORTH_SAYING):
            self._say(line.decode(errors="replace").rstrip(), self._failing)
