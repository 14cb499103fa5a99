//! The body of a multi-line reply (RFC 1939 §3): [`DotStuffer`]; and where TOP ends: [`TopLines`].

/// Octets that are looked through at once for what needs care. Little does, and to find that out for many
/// octets together takes a fraction of what it takes line by line.
const BLOCK_OCTETS: usize = if cfg!(test) { 8 } else { 256 };

/// Octets of a chunk for each of its pieces at least, on average: smaller ones are cheaper copied than named.
const PIECE_OCTETS_MIN: usize = if cfg!(test) { 4 } else { 1024 };

/// What the line end of a message lacks.
const RETURN: &[u8] = b"\r";

/// What a leading dot gets.
const DOT: &[u8] = b".";

/// Makes a message out of any octets: CRLF line ends, leading dots doubled, a line end at the end.
///
/// Feed it chunks cut anywhere; it keeps one octet between them.
#[derive(Debug)]
pub struct DotStuffer {
    /// The octet before; before the first one, a line has ended.
    previous: u8,
    nul: Nul,
    octets: u64,
}

/// What becomes of NUL octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nul {
    /// They pass.
    Kept,
    /// They become 0x80: Outlook and Outlook Express hang on them.
    Replaced,
}

impl DotStuffer {
    /// At the first octet of a message.
    pub fn new(nul: Nul) -> Self {
        Self {
            previous: b'\n',
            nul,
            octets: 0,
        }
    }

    /// Takes a chunk, and lends what goes onto the wire for it in pieces, most of them of the chunk itself;
    /// `None`: there would be many small ones, or octets are to be replaced, so that it must be pushed.
    pub fn pieces<'a>(&mut self, chunk: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        if self.nul == Nul::Replaced && memchr::memchr(0, chunk).is_some() {
            return None;
        }
        let pieces_max = 1 + chunk.len() / PIECE_OCTETS_MIN;
        let mut pieces = Vec::new();
        let mut returns = 0;
        let mut cut = 0;
        for (place, inserted) in insertions(self.previous, chunk) {
            if pieces.len() >= pieces_max {
                return None;
            }
            pieces.extend([&chunk[cut..place], inserted]);
            returns += u64::from(inserted == RETURN);
            cut = place;
        }
        pieces.push(&chunk[cut..]);
        self.previous = chunk.last().copied().unwrap_or(self.previous);
        self.octets += chunk.len() as u64 + returns;
        Some(pieces)
    }

    /// Appends a chunk of the message to `out`.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let written_before = out.len();
        let mut stuffed = 0;
        let mut copied = 0;
        for (place, inserted) in insertions(self.previous, chunk) {
            out.extend_from_slice(&chunk[copied..place]);
            out.extend_from_slice(inserted);
            stuffed += usize::from(inserted == DOT);
            copied = place;
        }
        out.extend_from_slice(&chunk[copied..]);
        self.previous = chunk.last().copied().unwrap_or(self.previous);
        if self.nul == Nul::Replaced {
            replace_nul(&mut out[written_before..]);
        }
        self.octets += (out.len() - written_before - stuffed) as u64;
    }

    /// Ends the last line, if the message did not. The terminator is not part of this.
    pub fn end_line(&mut self, out: &mut Vec<u8>) {
        if self.previous != b'\n' {
            out.extend_from_slice(b"\r\n");
            self.previous = b'\n';
            self.octets += 2;
        }
    }

    /// Octets of the message so far as RFC 1939 §11 counts them: line ends as two, stuffing not at all.
    pub fn octets(&self) -> u64 {
        self.octets
    }
}

/// Where something has to be inserted into a chunk behind this octet, and what, in order.
fn insertions(previous: u8, chunk: &[u8]) -> impl Iterator<Item = (usize, &'static [u8])> {
    let starts = (0..chunk.len()).step_by(BLOCK_OCTETS);
    let blocks = starts.zip(chunk.chunks(BLOCK_OCTETS));
    let blocks = blocks.map(move |(start, block)| match start {
        0 => (start, previous, block),
        _ => (start, chunk[start - 1], block),
    });
    let careful = blocks.filter(|(_, previous, block)| needs_care(*previous, block));
    careful.flat_map(|(start, previous, block)| {
        let inserted = insertions_of_block(previous, block);
        inserted.map(move |(place, inserted)| (start + place, inserted))
    })
}

fn insertions_of_block(previous: u8, block: &[u8]) -> impl Iterator<Item = (usize, &'static [u8])> {
    let leads = previous == b'\n' && block.first() == Some(&b'.');
    let at_start = leads.then_some((0, DOT));
    let newlines = memchr::memchr_iter(b'\n', block);
    let at_newlines = newlines.flat_map(move |newline| {
        let before = match newline {
            0 => previous,
            _ => block[newline - 1],
        };
        let behind = newline + 1;
        let bare = (before != b'\r').then_some((newline, RETURN));
        let leads = (block.get(behind) == Some(&b'.')).then_some((behind, DOT));
        bare.into_iter().chain(leads)
    });
    at_start.into_iter().chain(at_newlines)
}

/// Whether anything has to be inserted into a block. Without a branch in the loop, so that the compiler
/// makes it work on many octets at once.
fn needs_care(previous: u8, block: &[u8]) -> bool {
    let needs_it = |previous: u8, octet: u8| {
        ((octet == b'\n') & (previous != b'\r')) | ((octet == b'.') & (previous == b'\n'))
    };
    let first = block
        .first()
        .is_some_and(|first| needs_it(previous, *first));
    let pairs = block.iter().zip(block.iter().skip(1));
    pairs.fold(first, |any, (previous, octet)| {
        any | needs_it(*previous, *octet)
    })
}

fn replace_nul(octets: &mut [u8]) {
    let mut rest = octets;
    while let Some(nul) = memchr::memchr(0, rest) {
        rest[nul] = 0x80;
        rest = &mut rest[nul + 1..];
    }
}

/// Finds where TOP ends (RFC 1939 §7): after the header, its blank line, and so many body lines.
#[derive(Debug)]
pub struct TopLines {
    place: Place,
    /// What the current line holds so far.
    line: Line,
    /// `None`: all that there are.
    lines_left: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Body,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Empty,
    OnlyCr,
    Text,
}

impl TopLines {
    /// For `TOP n lines`.
    pub fn new(lines: u64) -> Self {
        Self {
            place: Place::Header,
            line: Line::Empty,
            lines_left: Some(lines),
        }
    }

    /// For a message with all its lines.
    pub fn all() -> Self {
        Self {
            lines_left: None,
            ..Self::new(0)
        }
    }

    /// How many octets of this chunk still belong to it.
    pub fn take(&mut self, chunk: &[u8]) -> usize {
        let mut start = 0;
        while start < chunk.len() && self.place != Place::End {
            if self.place == Place::Body && self.lines_left.is_none() {
                return chunk.len();
            }
            let Some(length) = memchr::memchr(b'\n', &chunk[start..]) else {
                self.extend_line(&chunk[start..]);
                return chunk.len();
            };
            self.extend_line(&chunk[start..start + length]);
            self.end_line();
            start += length + 1;
        }
        start
    }

    /// Whether the header's blank line has been passed.
    pub fn has_header_end(&self) -> bool {
        self.place != Place::Header
    }

    /// Whether no further octet belongs to it.
    pub fn is_complete(&self) -> bool {
        self.place == Place::End
    }

    fn extend_line(&mut self, text: &[u8]) {
        self.line = match (self.line, text) {
            (line, b"") => line,
            (Line::Empty, b"\r") => Line::OnlyCr,
            _ => Line::Text,
        };
    }

    fn end_line(&mut self) {
        let blank = self.line != Line::Text;
        self.line = Line::Empty;
        match self.place {
            Place::Header if blank => self.place = Place::Body,
            Place::Body => self.lines_left = self.lines_left.map(|left| left.saturating_sub(1)),
            Place::Header | Place::End => {}
        }
        if self.place == Place::Body && self.lines_left == Some(0) {
            self.place = Place::End;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuffed(chunks: &[&[u8]]) -> (Vec<u8>, u64) {
        let mut stuffer = DotStuffer::new(Nul::Kept);
        let mut out = Vec::new();
        for chunk in chunks {
            stuffer.push(chunk, &mut out);
        }
        stuffer.end_line(&mut out);
        (out, stuffer.octets())
    }

    /// What RFC 1939 says, one octet at a time.
    fn naive(message: &[u8]) -> (Vec<u8>, u64) {
        let mut lines: Vec<u8> = Vec::new();
        for (position, octet) in message.iter().enumerate() {
            if *octet == b'\n' && (position == 0 || message[position - 1] != b'\r') {
                lines.push(b'\r');
            }
            lines.push(*octet);
        }
        if !lines.is_empty() && !lines.ends_with(b"\n") {
            lines.extend_from_slice(b"\r\n");
        }
        let octets = lines.len() as u64;
        let mut out = Vec::new();
        for line in lines.split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b".") {
                out.push(b'.');
            }
            out.extend_from_slice(line);
        }
        (out, octets)
    }

    fn top(message: &[u8], lines: u64, cut: usize) -> Vec<u8> {
        let mut top = TopLines::new(lines);
        let (first, second) = message.split_at(cut.min(message.len()));
        let mut taken = Vec::new();
        for chunk in [first, second] {
            let octets = top.take(chunk);
            taken.extend_from_slice(&chunk[..octets]);
        }
        taken
    }

    #[test]
    fn awkward_messages() {
        for (message, on_the_wire) in [
            (&b""[..], &b""[..]),
            (b".", b"..\r\n"),
            (b".\r\n", b"..\r\n"),
            (b"\n.\n", b"\r\n..\r\n"),
            (b"a\r\n.\r\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\rb\r", b"a\rb\r\r\n"),
            (b"\r\r\n", b"\r\r\n"),
            (b"\0\xff", b"\0\xff\r\n"),
        ] {
            assert_eq!(stuffed(&[message]).0, on_the_wire, "{message:?}");
        }
        let mut stuffer = DotStuffer::new(Nul::Replaced);
        let mut out = b"\0".to_vec();
        stuffer.push(b"a\0\0", &mut out);
        assert_eq!(out, b"\0a\x80\x80");
    }

    #[test]
    fn top_counts_body_lines_only() {
        let message = b"A: b\r\n c\r\n\r\n1\r\n\r\n3";
        for (lines, taken) in [(0, 12), (1, 15), (2, 17), (3, 18), (u64::MAX, 18)] {
            assert_eq!(top(message, lines, 0), &message[..taken], "{lines}");
        }
        let mut all = TopLines::all();
        assert_eq!(all.take(message), message.len());
        assert!(all.has_header_end() && !all.is_complete());
        assert_eq!(top(b"A: b\n\n1\n2\n", 1, 0), b"A: b\n\n1\n");
        assert_eq!(top(b"\r\nbody\r\n", 0, 0), b"\r\n");
        assert_eq!(top(b"A: no blank line\r\n", 0, 0), b"A: no blank line\r\n");
    }

    proptest! {
        #[test]
        fn chunks_may_be_cut_anywhere(message in "[.\r\nab\0]{0,60}", a in 0usize..60, b in 0usize..60) {
            let message = message.as_bytes();
            let (a, b) = (a.min(b).min(message.len()), a.max(b).min(message.len()));
            let chunks = [&message[..a], &message[a..b], &message[b..]];
            prop_assert_eq!(stuffed(&chunks), naive(message));
        }

        #[test]
        fn pieces_are_what_would_be_pushed(message in "[.\r\na\0]{0,40}", cut in 0usize..40, replaced: bool) {
            let nul = if replaced { Nul::Replaced } else { Nul::Kept };
            let (first, second) = message.as_bytes().split_at(cut.min(message.len()));
            let (mut pushing, mut lending) = (DotStuffer::new(nul), DotStuffer::new(nul));
            let (mut pushed, mut lent) = (Vec::new(), Vec::new());
            for chunk in [first, second] {
                let before = pushed.len();
                pushing.push(chunk, &mut pushed);
                match lending.pieces(chunk) {
                    Some(pieces) => {
                        prop_assert!(pieces.len() <= 3 + chunk.len() / PIECE_OCTETS_MIN);
                        lent.extend(pieces.concat());
                    }
                    None => {
                        prop_assert!(pushed[before..] != *chunk, "it could have been lent");
                        lending.push(chunk, &mut lent);
                    }
                }
            }
            pushing.end_line(&mut pushed);
            lending.end_line(&mut lent);
            prop_assert_eq!((pushed, pushing.octets()), (lent, lending.octets()));
        }

        #[test]
        fn top_is_a_prefix_wherever_it_is_cut(message in "[\r\nab]{0,60}", lines in 0u64..5, cut in 0usize..60) {
            let taken = top(message.as_bytes(), lines, cut);
            prop_assert_eq!(&taken, &top(message.as_bytes(), lines, 0));
            prop_assert!(message.as_bytes().starts_with(&taken));
        }
    }
}
