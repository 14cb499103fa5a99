//! Where a message ends, and what is in it (RFC 5321 §4.1.1.4, §4.5.2): [`MessageReader`] takes what a
//! client sends, [`DotStuffer`] writes what an upstream gets.
//!
//! What comes out of the one has no CR and no LF but in CRLF, so that nothing in it can end a message
//! for an upstream that reads line ends in another way than we do.

/// Octets that are looked through at once for what needs care. Little does, and to find that out for many
/// octets together takes a fraction of what it takes line by line.
const BLOCK_OCTETS: usize = if cfg!(test) { 8 } else { 1024 };

/// Reads a message out of what a client sends behind DATA or BDAT.
///
/// Feed it chunks cut anywhere. A bare LF becomes CRLF, a bare CR a blank; both are noted.
#[derive(Debug)]
pub struct MessageReader {
    framing: Framing,
    place: Place,
    octets: u64,
    has_bare_newline: bool,
}

/// How the end of a message is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// DATA: by CRLF.CRLF; dots at the beginning of lines are doubled.
    Dots,
    /// BDAT: by counting, which is not done here.
    Counted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind CRLF.
    LineStart,
    /// Behind CRLF and a dot, which is no part of the message.
    Dot,
    /// Behind CRLF, that dot, and a CR.
    DotCr,
    /// Within a line, behind a bare LF included: only CRLF begins a line of SMTP.
    Text,
    /// Within a line, behind a CR.
    Cr,
    /// Behind CRLF.CRLF.
    End,
}

impl MessageReader {
    /// At the first octet of a message.
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            place: Place::LineStart,
            octets: 0,
            has_bare_newline: false,
        }
    }

    /// Appends the message's part of a chunk to `out`; answers how many octets of the chunk are read,
    /// which are all of them unless the message ends before.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> usize {
        let written_before = out.len();
        let mut read = 0;
        while read < chunk.len() && self.place != Place::End {
            read += self.step(&chunk[read..], out);
        }
        self.octets += (out.len() - written_before) as u64;
        read
    }

    /// Reads some octets of an input that is not empty, or none and is at another place.
    fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let plain = self.plain(input, out);
        if plain > 0 {
            return plain;
        }
        match (self.place, input[0]) {
            (Place::Text, _) => self.text(input, out),
            (Place::LineStart, b'.') if self.framing == Framing::Dots => self.go(Place::Dot, 1),
            (Place::LineStart, _) => self.go(Place::Text, 0),
            (Place::Dot, b'\r') => self.go(Place::DotCr, 1),
            (Place::Dot, _) => self.go(Place::Text, 0),
            (Place::DotCr, b'\n') => self.go(Place::End, 1),
            (Place::Cr, b'\n') => {
                out.extend_from_slice(b"\r\n");
                self.go(Place::LineStart, 1)
            }
            (Place::DotCr | Place::Cr, _) => {
                self.bare_cr(out);
                self.go(Place::Text, 0)
            }
            (Place::End, _) => 0,
        }
    }

    /// Takes the blocks at the beginning that are whole lines, and parts of lines, as they are.
    fn plain(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut previous = match self.place {
            Place::LineStart => b'\n',
            Place::Text => b'x',
            Place::Dot | Place::DotCr | Place::Cr | Place::End => return 0,
        };
        let mut end = 0;
        for block in input.chunks(BLOCK_OCTETS) {
            let Some(last) = block.last().filter(|last| **last != b'\r') else {
                break;
            };
            if needs_care(previous, block) {
                break;
            }
            previous = *last;
            end += block.len();
        }
        if end > 0 {
            out.extend_from_slice(&input[..end]);
            self.place = match previous {
                b'\n' => Place::LineStart,
                _ => Place::Text,
            };
        }
        end
    }

    fn text(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let end = memchr::memchr2(b'\r', b'\n', input).unwrap_or(input.len());
        out.extend_from_slice(&input[..end]);
        match input.get(end) {
            None => end,
            Some(b'\r') => self.go(Place::Cr, end + 1),
            Some(_) => {
                self.has_bare_newline = true;
                out.extend_from_slice(b"\r\n");
                end + 1
            }
        }
    }

    fn go(&mut self, place: Place, read: usize) -> usize {
        self.place = place;
        read
    }

    fn bare_cr(&mut self, out: &mut Vec<u8>) {
        self.has_bare_newline = true;
        out.push(b' ');
    }

    /// Ends a message that was counted.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if self.place == Place::Cr {
            self.bare_cr(out);
            self.octets += 1;
        }
        self.place = Place::End;
    }

    /// Whether the message is at its end.
    pub fn is_complete(&self) -> bool {
        self.place == Place::End
    }

    /// Whether it had a CR or LF that was not part of CRLF.
    pub fn has_bare_newline(&self) -> bool {
        self.has_bare_newline
    }

    /// Octets of the message so far, as RFC 1870 §5 counts them: without stuffing and final dot.
    pub fn octets(&self) -> u64 {
        self.octets
    }
}

/// Whether a block has a CR or LF that is not part of CRLF, or a dot at the beginning of a line. Without a
/// branch in the loop, so that the compiler makes it work on many octets at once.
fn needs_care(previous: u8, block: &[u8]) -> bool {
    let needs_it = |previous: u8, octet: u8| {
        ((octet == b'\n') != (previous == b'\r')) | ((octet == b'.') & (previous == b'\n'))
    };
    let first = block
        .first()
        .is_some_and(|first| needs_it(previous, *first));
    let pairs = block.iter().zip(block.iter().skip(1));
    pairs.fold(first, |any, (previous, octet)| {
        any | needs_it(*previous, *octet)
    })
}

/// Writes a message as DATA has it: leading dots doubled, and the final dot on a line of its own.
#[derive(Debug)]
pub struct DotStuffer {
    at_line_start: bool,
}

impl Default for DotStuffer {
    fn default() -> Self {
        Self {
            at_line_start: true,
        }
    }
}

impl DotStuffer {
    /// Appends a chunk, in which every LF ends a line.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else {
            return;
        };
        if self.at_line_start && *first == b'.' {
            out.push(b'.');
        }
        let mut copied = 0;
        for newline in memchr::memmem::find_iter(chunk, b"\n.") {
            out.extend_from_slice(&chunk[copied..=newline]);
            out.push(b'.');
            copied = newline + 1;
        }
        out.extend_from_slice(&chunk[copied..]);
        self.at_line_start = *last == b'\n';
    }

    /// Appends the end of the message: said only when the whole of it went before.
    pub fn end(self, out: &mut Vec<u8>) {
        if !self.at_line_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Read {
        message: Vec<u8>,
        octets: usize,
        is_complete: bool,
        has_bare_newline: bool,
    }

    fn read(framing: Framing, chunks: &[&[u8]]) -> Read {
        let mut reader = MessageReader::new(framing);
        let mut message = Vec::new();
        let mut octets = 0;
        for chunk in chunks {
            octets += reader.push(chunk, &mut message);
        }
        if framing == Framing::Counted {
            reader.end(&mut message);
        }
        assert_eq!(reader.octets(), message.len() as u64);
        Read {
            message,
            octets,
            is_complete: reader.is_complete(),
            has_bare_newline: reader.has_bare_newline(),
        }
    }

    fn stuffed(chunks: &[&[u8]]) -> Vec<u8> {
        let mut stuffer = DotStuffer::default();
        let mut out = Vec::new();
        for chunk in chunks {
            stuffer.push(chunk, &mut out);
        }
        stuffer.end(&mut out);
        out
    }

    /// What RFC 5321 says, over the whole: the end is where CRLF.CRLF is first, the CRLF behind the
    /// command DATA included; a dot goes away behind each CRLF before it; then line ends are mended.
    fn naive(input: &[u8]) -> (Vec<u8>, usize, bool) {
        let all = [b"\r\n", input].concat();
        let end = memchr::memmem::find(&all, b"\r\n.\r\n");
        let body = &all[..end.map_or(all.len(), |end| end + 2)];
        let mut unstuffed = Vec::new();
        for (at, octet) in body.iter().enumerate().skip(2) {
            if *octet != b'.' || !body[..at].ends_with(b"\r\n") {
                unstuffed.push(*octet);
            }
        }
        (
            mended(&unstuffed),
            end.map_or(input.len(), |end| end + 3),
            end.is_some(),
        )
    }

    fn mended(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, octet) in message.iter().enumerate() {
            match octet {
                b'\r' if message.get(at + 1) == Some(&b'\n') => {}
                b'\r' => out.push(b' '),
                b'\n' => out.extend_from_slice(b"\r\n"),
                _ => out.push(*octet),
            }
        }
        out
    }

    /// A CR at the very end may be half of a CRLF.
    fn is_bare_somewhere(octets: &[u8]) -> bool {
        let mut pairs = [b"x", octets].concat();
        pairs.pop_if(|last| *last == b'\r');
        (0..pairs.len()).any(|at| match pairs[at] {
            b'\r' => pairs.get(at + 1) != Some(&b'\n'),
            b'\n' => pairs[at - 1] != b'\r',
            _ => false,
        })
    }

    fn has_only_crlf(octets: &[u8]) -> bool {
        !octets.ends_with(b"\r") && !is_bare_somewhere(octets)
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        for (input, message) in [
            (&b".\r\n"[..], &b""[..]),
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n"),
            (b"..a\r\n..\r\n.\r\n", b".a\r\n.\r\n"),
            (b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n"),
            (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
            (b"\0\xff\r\n.\r\n", b"\0\xff\r\n"),
        ] {
            let read = read(Framing::Dots, &[input]);
            assert!(read.is_complete && !read.has_bare_newline, "{input:?}");
            assert_eq!(read.message, message, "{input:?}");
        }
        for end in [
            &b"\n.\n"[..],
            b"\n.\r\n",
            b"\r\n.\n",
            b"\r.\r",
            b"\r\r\n.\r\r\n",
            b"\r\n.\r\r\n",
            b"\r\n.\rX\n",
            b"\r.\r\n",
            b"\r\n.\r",
            b"\n\r.\r\n",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
            b"\r\n .\r\n",
            b"\r\n. \r\n",
        ] {
            let input = [b"a", end, b"MAIL FROM:<x>"].concat();
            let read = read(Framing::Dots, &[&input]);
            assert!(!read.is_complete, "{end:?}");
            assert!(has_only_crlf(&read.message), "{end:?}");
        }
    }

    #[test]
    fn a_counted_message_has_no_dots_to_mind() {
        let read = read(Framing::Counted, &[b".\r\n..x\r\n.\r\n.\n\r"]);
        assert_eq!(read.message, b".\r\n..x\r\n.\r\n.\r\n ");
        assert!(read.has_bare_newline);
        assert_eq!(
            stuffed(&[&read.message]),
            b"..\r\n...x\r\n..\r\n..\r\n \r\n.\r\n"
        );
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_written_wherever_it_is_cut(
            input in "[.\r\nab\0]{0,60}", a in 0usize..60, b in 0usize..60,
        ) {
            let input = input.as_bytes();
            let (a, b) = (a.min(b).min(input.len()), a.max(b).min(input.len()));
            let whole = read(Framing::Dots, &[input]);
            let read = read(Framing::Dots, &[&input[..a], &input[a..b], &input[b..]]);
            prop_assert_eq!(&read.message, &whole.message);
            prop_assert_eq!(read.octets, whole.octets);
            let (message, octets, is_complete) = naive(input);
            prop_assert_eq!(read.is_complete, is_complete);
            prop_assert_eq!(read.octets, octets);
            if is_complete {
                prop_assert_eq!(&read.message, &message);
            }
            prop_assert!(has_only_crlf(&read.message));
            prop_assert_eq!(read.has_bare_newline, is_bare_somewhere(&input[..read.octets]));
        }

        #[test]
        fn what_is_written_is_read_as_the_same(
            input in "[.\r\nab\0]{0,60}", a in 0usize..60, b in 0usize..60,
        ) {
            let counted = read(Framing::Counted, &[input.as_bytes()]).message;
            let (a, b) = (a.min(b).min(counted.len()), a.max(b).min(counted.len()));
            let written = stuffed(&[&counted[..a], &counted[a..b], &counted[b..]]);
            prop_assert_eq!(&written, &stuffed(&[&counted]));
            prop_assert!(has_only_crlf(&written));
            let mut again = read(Framing::Dots, &[&written]);
            prop_assert!(again.is_complete && again.octets == written.len());
            if !counted.is_empty() && !counted.ends_with(b"\n") {
                again.message.truncate(again.message.len() - 2);
            }
            prop_assert_eq!(again.message, counted);
        }
    }
}
