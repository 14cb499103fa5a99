"""Makes the transcripts scripts for the targets that fuzz sessions: one file a transcript, includes in place.

Usage: seeds.py FOLDER     FOLDER/pop3_session and FOLDER/submission_session are filled.
"""

import base64
import pathlib
import re
import sys

TRANSCRIPTS = pathlib.Path(__file__).parent.parent / "transcripts"
# What a script knows; see src/lib.rs.
KNOWN = ("C:", "s:", "s|", "eof ", "reset ", "set on_delete")


def lines(path, argument=""):
    """The lines of a transcript, those of its scenes in place."""
    for line in path.read_text().splitlines():
        if line.startswith("include "):
            _, scene, *rest = line.split(" ", 2)
            yield from lines(TRANSCRIPTS / "scenes" / f"{scene}.txt", rest[0] if rest else "")
        else:
            yield line.replace("$1", argument)


SHORT = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([rnt0\\]))")
EXPANSION = re.compile(r'\{(base64 )?"([^"]*)"(?:\*([0-9]+))?\}')


def plain(text):
    """Octets as a transcript spells them; see tests/support/spelling.rs."""
    unescaped = ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else SHORT[found[2]], text)
    return b"".join(letter.encode("latin1" if ord(letter) < 256 else "utf-8") for letter in unescaped)


def spelt(line):
    """A line's octets; a LF and an end without CRLF are left to the target, which knows them by their spelling."""
    out, at = b"", 0
    for found in EXPANSION.finditer(line):
        octets = plain(found[2])
        octets = base64.b64encode(octets) if found[1] else octets * int(found[3] or 1)
        out += plain(line[at : found.start()]) + octets
        at = found.end()
    return (out + plain(line[at:])).replace(b"\n", b"\\n")


def script(path):
    """The script of a transcript: a literal gets its length from the lines that follow."""
    found = [line for line in lines(path) if line.startswith(KNOWN)]
    out = []
    for number, line in enumerate(found):
        if line.startswith("s:") and line.endswith("{}"):
            body = []
            for following in found[number + 1 :]:
                if not following.startswith("s|"):
                    break
                body.append(following[3:])
            line = f"{line[:-1]}{sum(len(spelt(text)) + 2 for text in body)}}}"
        if line.startswith("reset "):
            line = f"eof {line.split()[1]}"
        if line in ("C:", "s:", "s|"):
            line += " "
        out.append(spelt(line))
    return b"\n".join(out)


def main():
    for path in sorted(TRANSCRIPTS.rglob("*.txt")):
        if path.parent.name == "scenes":
            continue
        is_submission = any(line == "submission" for line in lines(path))
        folder = pathlib.Path(sys.argv[1]) / ("submission_session" if is_submission else "pop3_session")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.parent.name}-{path.stem}").write_bytes(script(path))


main()
