"""Makes the transcripts scripts for the targets that fuzz sessions: one file a transcript, includes in place.

Usage: seeds.py FOLDER     FOLDER/pop3_session and FOLDER/submission_session are filled.
"""

import pathlib
import sys

TRANSCRIPTS = pathlib.Path(__file__).parent.parent / "transcripts"
# What a script knows; see src/lib.rs.
KNOWN = ("C:", "s:", "s|", "eof ", "set on_delete")


def lines(path, argument=""):
    """The lines of a transcript, those of its scenes in place."""
    for line in path.read_text().splitlines():
        if line.startswith("include "):
            _, scene, *rest = line.split(" ", 2)
            yield from lines(TRANSCRIPTS / "scenes" / f"{scene}.txt", rest[0] if rest else "")
        else:
            yield line.replace("$1", argument)


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
            line = f"{line[:-1]}{sum(len(text) + 2 for text in body)}}}"
        if line in ("C:", "s:", "s|"):
            line += " "
        out.append(line)
    return "\n".join(out)


def main():
    for path in sorted(TRANSCRIPTS.rglob("*.txt")):
        if path.parent.name == "scenes":
            continue
        is_submission = any(line == "submission" for line in lines(path))
        folder = pathlib.Path(sys.argv[1]) / ("submission_session" if is_submission else "pop3_session")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.parent.name}-{path.stem}").write_text(script(path))


main()
