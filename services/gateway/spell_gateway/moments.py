"""Where in a journal, which comes in pieces, a moment is: what happened elsewhere then belongs there (pure)."""

from spell_proto.journal import HEADER


class Moments:
    """Goes through pieces of a journal, the first of which begins with a record."""

    def __init__(self) -> None:
        self._left = 0
        self._head = b""

    def before(self, data: bytes, at_us: int) -> int | None:
        """How many bytes of the next piece stand before its first record that was written later. None: all of them. Else what
        follows them is the next piece. A record whose beginning is in an earlier piece is no place: that is sent by now.
        """
        position = 0
        while position < len(data):
            if self._left:
                step = min(self._left, len(data) - position)
                self._left -= step
                position += step
                continue
            head = self._head + data[position : position + HEADER.size - len(self._head)]
            if len(head) < HEADER.size:
                self._head = head
                return None
            length, _, written_us = HEADER.unpack(head)
            if written_us > at_us and not self._head:
                return position
            position += HEADER.size - len(self._head)
            self._left, self._head = length, b""
        return None
