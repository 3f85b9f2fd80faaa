"""Takes out of a run's output the sequences that act on more of a terminal than the text in it.

An OSC sets titles and reads or fills the clipboard, a DCS, APC, PM or SOS carries whatever a terminal makes of it,
and ESC c resets everything. Colours, the cursor and carriage returns pass.
"""

import re

#: A terminal carries out a control character in the middle of a sequence and goes on with the sequence.
_ESCAPE = re.compile(rb"\x1b[\x00-\x17\x19\x1b-\x1f\x7f]*+([]P_^Xc])?")
#: The terminal never sees the beginning, so that an end found too early costs nothing but text. No OSC has lines:
#: one that was never ended must not swallow all that follows.
_END_OF_OSC = re.compile(rb"\x1b\\|[\x07\x18\x1a]|(?=\n)|(?=\x1b[^\\])")
_END_OF_OTHERS = re.compile(rb"\x1b\\|[\x18\x1a]|(?=\x1b[^\\])")


class EscapeFilter:
    """What one stream of output may show; a sequence may begin in one piece and end in another."""

    def __init__(self) -> None:
        self._held = b""
        self._inside = b""

    def feed(self, piece: bytes) -> bytes:
        """The part of `piece` that may be shown."""
        if not self._inside and not self._held and b"\x1b" not in piece:
            return piece
        data = self._held + piece
        self._held = b""
        shown: list[bytes] = []
        position = 0
        while position < len(data):
            if self._inside:
                end = (_END_OF_OSC if self._inside == b"]" else _END_OF_OTHERS).search(data, position)
                if end is None:
                    self._held = b"\x1b" if data.endswith(b"\x1b") else b""
                    break
                self._inside, position = b"", end.end()
                continue
            escape = _ESCAPE.search(data, position)
            if escape is None:
                shown.append(data[position:])
                break
            shown.append(data[position : escape.start()])
            position = escape.end()
            if escape[1] is not None:
                self._inside = b"" if escape[1] == b"c" else escape[1]
            elif position < len(data):
                shown.append(escape[0])
            else:
                # What it begins is in the next piece.
                shown.append(escape[0].replace(b"\x1b", b""))
                self._held = b"\x1b"
        return b"".join(shown)
