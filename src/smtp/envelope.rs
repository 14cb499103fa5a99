//! Who sends to whom (RFC 5321 §4.1.2, RFC 6531 §3.3): paths and the parameters behind them, exact
//! enough to be written into a command of ours.

use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::char;
use nom::combinator::{all_consuming, map, map_opt, opt, recognize, verify};
use nom::multi::{many0, separated_list1};
use nom::sequence::{delimited, pair, preceded, terminated};

use super::extension::Extension;

/// Where failures are reported to: an address, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReversePath(Option<Mailbox>);

/// To whom a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPath(Mailbox);

/// `local-part ["@" (domain / address-literal)]`, as typed. It holds no control character and, outside
/// of quotes, no blank or bracket, so that it can be written between `<` and `>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox(Vec<u8>);

/// One `esmtp-param`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// In upper case.
    keyword: String,
    value: Option<Vec<u8>>,
}

/// What follows a path, in its order; no keyword comes twice.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Parameters(Vec<Parameter>);

impl ReversePath {
    /// The address, if it is not `<>`.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        self.0.as_ref()
    }
}

impl ForwardPath {
    /// The address.
    pub fn mailbox(&self) -> &Mailbox {
        &self.0
    }
}

impl Mailbox {
    /// The octets on the wire, between `<` and `>`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it can go to an upstream without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }
}

impl Parameter {
    /// In upper case.
    pub fn keyword(&self) -> &str {
        &self.keyword
    }

    /// Whether it can be said without SMTPUTF8 (RFC 6531 §3.3).
    pub fn is_ascii(&self) -> bool {
        self.value().is_none_or(<[u8]>::is_ascii)
    }

    /// Behind the `=`.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The same of a message that has become longer by so many octets, if it is about its size.
    #[must_use]
    pub fn of_longer_message(mut self, octets: u64) -> Self {
        if self.keyword == "SIZE"
            && let Some(size) = self.value().and_then(decimal)
        {
            self.value = Some(size.saturating_add(octets).to_string().into_bytes());
        }
        self
    }

    /// As it was typed, the keyword in upper case.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.keyword.as_bytes());
        if let Some(value) = &self.value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
}

impl Parameters {
    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.0.iter()
    }

    /// The same of a message that has become longer by so many octets.
    #[must_use]
    pub fn of_longer_message(self, octets: u64) -> Self {
        let parameters = self.0.into_iter();
        Self(
            parameters
                .map(|parameter| parameter.of_longer_message(octets))
                .collect(),
        )
    }

    /// The one with this keyword.
    pub fn find(&self, keyword: &str) -> Option<&Parameter> {
        self.iter().find(|parameter| parameter.keyword == keyword)
    }
}

/// What a parameter needs of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Its keyword belongs to this extension.
    Extension(Extension),
    /// Nothing: it says what is so without it, and where nobody knows it, it is left away.
    Nothing,
    /// It is for us alone: what we do not vouch for is left away (RFC 4954 §5).
    NotForUpstreams,
}

/// What is wrong with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterMistake {
    /// Nobody offers it here.
    Unknown,
    /// Its value is none that its extension knows.
    Value,
}

/// What a parameter of MAIL needs.
///
/// # Errors
/// When it is none, or its value is not of the form that its extension gives it.
pub fn need_of_mail(parameter: &Parameter) -> Result<Need, ParameterMistake> {
    let value = parameter.value();
    let (is_sound, need) = match parameter.keyword() {
        "SIZE" => (
            value.and_then(decimal).is_some(),
            Need::Extension(Extension::Size),
        ),
        "BODY" => match value {
            Some(body) if body.eq_ignore_ascii_case(b"7BIT") => (true, Need::Nothing),
            Some(body) if body.eq_ignore_ascii_case(b"8BITMIME") => {
                (true, Need::Extension(Extension::EightBitMime))
            }
            Some(_) => return Err(ParameterMistake::Unknown),
            None => (false, Need::Nothing),
        },
        "SMTPUTF8" => (value.is_none(), Need::Extension(Extension::SmtpUtf8)),
        "RET" => (
            value.is_some_and(|value| is_one_of(value, &["FULL", "HDRS"])),
            Need::Extension(Extension::Dsn),
        ),
        "ENVID" => (
            value.is_some_and(is_envelope_id),
            Need::Extension(Extension::Dsn),
        ),
        "REQUIRETLS" => (value.is_none(), Need::Extension(Extension::RequireTls)),
        "AUTH" => (value.is_some(), Need::NotForUpstreams),
        _ => return Err(ParameterMistake::Unknown),
    };
    match is_sound {
        true => Ok(need),
        false => Err(ParameterMistake::Value),
    }
}

/// What a parameter of RCPT needs.
///
/// # Errors
/// As [`need_of_mail`].
pub fn need_of_rcpt(parameter: &Parameter) -> Result<Need, ParameterMistake> {
    let is_sound: fn(&[u8]) -> bool = match parameter.keyword() {
        "NOTIFY" => is_notify,
        "ORCPT" => is_original_recipient,
        _ => return Err(ParameterMistake::Unknown),
    };
    match parameter.value().is_some_and(is_sound) {
        true => Ok(Need::Extension(Extension::Dsn)),
        false => Err(ParameterMistake::Value),
    }
}

/// Octets of an envelope identifier (RFC 3461 §4.4).
const ENVELOPE_ID_OCTETS_MAX: usize = 100;

/// Octets of an original recipient (RFC 3461 §4.2).
const ORIGINAL_RECIPIENT_OCTETS_MAX: usize = 500;

/// `xtext`, of the printable ASCII that it must stand for (RFC 3461 §4.4).
fn is_envelope_id(value: &[u8]) -> bool {
    value.len() <= ENVELOPE_ID_OCTETS_MAX && is_xtext(value)
}

/// `notify-esmtp-value = "NEVER" / 1#notify-list-element` (RFC 3461 §4.1)
fn is_notify(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"NEVER")
        || value
            .split(|octet| *octet == b',')
            .all(|element| is_one_of(element, &["SUCCESS", "FAILURE", "DELAY"]))
}

/// `original-recipient-address = addr-type ";" xtext` (RFC 3461 §4.2); in the place of `xtext`, addresses
/// of type `utf-8` have their own escapes, or UTF-8 as it is (RFC 6533 §3).
fn is_original_recipient(value: &[u8]) -> bool {
    let Some(semicolon) = memchr::memchr(b';', value) else {
        return false;
    };
    let (kind, address) = (&value[..semicolon], &value[semicolon + 1..]);
    let is_atom = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'-';
    let is_address = match kind.eq_ignore_ascii_case(b"utf-8") {
        true => !address.contains(&b'+') && !address.contains(&b'='),
        false => is_xtext(address),
    };
    value.len() <= ORIGINAL_RECIPIENT_OCTETS_MAX
        && !kind.is_empty()
        && kind.iter().all(is_atom)
        && !address.is_empty()
        && is_address
}

/// `xtext = *( xchar / hexchar )`, `hexchar = "+" 2(%x30-39 / %x41-46)` (RFC 3461 §4), that stands for printable
/// ASCII and blanks alone (RFC 3461 §4.2, §4.4): a line end, in a report of delivery, would end its field.
fn is_xtext(value: &[u8]) -> bool {
    let is_hex = |octet: &u8| matches!(octet, b'0'..=b'9' | b'A'..=b'F');
    value.iter().enumerate().all(|(place, octet)| match octet {
        b'+' => value
            .get(place + 1..place + 3)
            .filter(|code| code.iter().all(is_hex))
            .and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok())
            .is_some_and(|decoded| matches!(decoded, b' '..=b'~')),
        b'=' => false,
        _ => octet.is_ascii_graphic(),
    })
}

fn is_one_of(value: &[u8], words: &[&str]) -> bool {
    words
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word.as_bytes()))
}

/// Digits alone, at most 20 of them (RFC 1870 §4); a size that no machine can hold is the largest.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    let sound = matches!(digits.len(), 1..=20) && digits.iter().all(u8::is_ascii_digit);
    let text = sound.then(|| std::str::from_utf8(digits).ok())??;
    Some(text.parse().unwrap_or(u64::MAX))
}

pub(super) type Parsed<'a, T> = nom::IResult<&'a [u8], T>;

/// `Reverse-path [SP Mail-parameters]`, as devices write it: with blanks before it, or without brackets.
pub(super) fn reverse_path(arguments: &[u8]) -> Option<(ReversePath, Parameters)> {
    let nobody = map(tag(&b"<>"[..]), |_| None);
    let path = map(alt((nobody, map(path, Some))), ReversePath);
    whole(path, arguments)
}

/// `Forward-path [SP Rcpt-parameters]`, likewise.
pub(super) fn forward_path(arguments: &[u8]) -> Option<(ForwardPath, Parameters)> {
    whole(map(path, ForwardPath), arguments)
}

fn whole<'a, T>(
    path: impl Parser<&'a [u8], Output = T, Error = nom::error::Error<&'a [u8]>>,
    arguments: &'a [u8],
) -> Option<(T, Parameters)> {
    // RFC 6531 §3.3: what is not ASCII is UTF-8.
    std::str::from_utf8(arguments).ok()?;
    let line = preceded(blanks, terminated(pair(path, parameters), blanks));
    all_consuming(line)
        .parse(arguments)
        .ok()
        .map(|(_, all)| all)
}

fn blanks(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while(|octet| octet == b' ' || octet == b'\t').parse(input)
}

/// `Path = "<" [ A-d-l ":" ] Mailbox ">"`; the source route is dropped (RFC 5321 §4.1.2, appendix C).
fn path(input: &[u8]) -> Parsed<'_, Mailbox> {
    let route = (
        separated_list1(char(','), preceded(char('@'), domain)),
        char(':'),
    );
    let bracketed = delimited(char('<'), preceded(opt(route), mailbox), char('>'));
    alt((bracketed, mailbox)).parse(input)
}

/// `Mailbox = Local-part "@" ( Domain / address-literal )`; a name without a domain is the upstream's to
/// judge, as `<Postmaster>` is.
fn mailbox(input: &[u8]) -> Parsed<'_, Mailbox> {
    let local_part = alt((quoted_string, dot_string));
    let domain = alt((address_literal, domain));
    map(
        recognize((local_part, opt((char('@'), domain)))),
        |octets| Mailbox(octets.to_vec()),
    )
    .parse(input)
}

/// `Dot-string = Atom *("." Atom)`, and the dots in other places that docomo.ne.jp gave out.
fn dot_string(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(|octet: u8| {
        octet.is_ascii_alphanumeric()
            || !octet.is_ascii()
            || b".!#$%&'*+-/=?^_`{|}~".contains(&octet)
    })
    .parse(input)
}

/// `Quoted-string = DQUOTE *QcontentSMTP DQUOTE`
fn quoted_string(input: &[u8]) -> Parsed<'_, &[u8]> {
    let is_printable = |octet: u8| matches!(octet, b' '..=b'~') || !octet.is_ascii();
    let text = take_while1(move |octet| is_printable(octet) && octet != b'"' && octet != b'\\');
    let pair = recognize((
        char('\\'),
        verify(nom::number::complete::u8, |octet| {
            matches!(octet, b' '..=b'~')
        }),
    ));
    recognize(delimited(char('"'), many0(alt((text, pair))), char('"'))).parse(input)
}

/// `Domain = sub-domain *("." sub-domain)`, with the underscores of Windows.
fn domain(input: &[u8]) -> Parsed<'_, &[u8]> {
    take_while1(|octet: u8| {
        octet.is_ascii_alphanumeric() || !octet.is_ascii() || b".-_".contains(&octet)
    })
    .parse(input)
}

/// `address-literal = "[" … "]"` of `dcontent = %d33-90 / %d94-126`, of which no literal that there is has
/// the brackets of a path.
fn address_literal(input: &[u8]) -> Parsed<'_, &[u8]> {
    let content =
        take_while1(|octet| matches!(octet, 33..=90 | 94..=126) && !b"<>".contains(&octet));
    recognize(delimited(char('['), content, char(']'))).parse(input)
}

/// `*( SP esmtp-param )`
fn parameters(input: &[u8]) -> Parsed<'_, Parameters> {
    let blank = take_while1(|octet| octet == b' ' || octet == b'\t');
    map_opt(many0(preceded(blank, parameter)), |parameters| {
        let mut keywords: Vec<&str> = parameters.iter().map(|it| it.keyword.as_str()).collect();
        keywords.sort_unstable();
        let is_unique = keywords.windows(2).all(|pair| pair[0] != pair[1]);
        is_unique.then_some(Parameters(parameters))
    })
    .parse(input)
}

/// `esmtp-param = esmtp-keyword ["=" esmtp-value]`
fn parameter(input: &[u8]) -> Parsed<'_, Parameter> {
    let is_value = |octet: u8| matches!(octet, 33..=60 | 62..=126) || !octet.is_ascii();
    let value = opt(preceded(char('='), take_while1(is_value)));
    map(pair(keyword, value), |(keyword, value)| Parameter {
        keyword,
        value: value.map(<[u8]>::to_vec),
    })
    .parse(input)
}

/// `esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")`, in upper case.
fn keyword(input: &[u8]) -> Parsed<'_, String> {
    let all = take_while1(|octet: u8| octet.is_ascii_alphanumeric() || octet == b'-');
    map_opt(verify(all, |word: &[u8]| word[0] != b'-'), |word| {
        std::str::from_utf8(word).ok().map(str::to_ascii_uppercase)
    })
    .parse(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address and the parameters, as they would be written.
    fn forward(arguments: &str) -> Option<String> {
        let (path, parameters) = forward_path(arguments.as_bytes())?;
        let mut out = path.mailbox().as_bytes().to_vec();
        for parameter in parameters.iter() {
            out.push(b' ');
            parameter.write(&mut out);
        }
        String::from_utf8(out).ok()
    }

    #[test]
    fn paths_as_clients_write_them() {
        for (arguments, expected) in [
            ("<joe@example.org>", "joe@example.org"),
            (" <joe@example.org> ", "joe@example.org"),
            ("joe@example.org", "joe@example.org"),
            (
                " joe@example.org NOTIFY=NEVER",
                "joe@example.org NOTIFY=NEVER",
            ),
            ("<@a.example,@b.example:joe@example.org>", "joe@example.org"),
            (
                "<\"joe \\\" >x\"@example.org>",
                "\"joe \\\" >x\"@example.org",
            ),
            ("<joe@[192.0.2.1]>", "joe@[192.0.2.1]"),
            ("<joe@[IPv6:2001:db8::1]>", "joe@[IPv6:2001:db8::1]"),
            ("<Postmaster>", "Postmaster"),
            ("<joe..x.@my_host>", "joe..x.@my_host"),
            ("<jürgen@bücher.example>", "jürgen@bücher.example"),
            (
                "<joe@example.org> orcpt=rfc822;joe+3D@example.org  notify=SUCCESS,FAILURE",
                "joe@example.org ORCPT=rfc822;joe+3D@example.org NOTIFY=SUCCESS,FAILURE",
            ),
        ] {
            assert_eq!(forward(arguments).as_deref(), Some(expected), "{arguments}");
        }
        let nobody = reverse_path(b"<> BODY=8BITMIME").expect("sound");
        assert_eq!(nobody.0.mailbox(), None);
    }

    #[test]
    fn what_could_mean_something_else_upstream_is_refused() {
        for arguments in [
            "",
            "<>",
            "<joe@example.org",
            "joe@example.org>",
            "<joe@example.org>x",
            "<joe@example.org>x=y",
            "<joe@example.org> -x",
            "<joe@example.org> X=",
            "<joe@example.org> X=a=b",
            "<joe@example.org> X=1 x=2",
            "<joe@example.org>\rRCPT",
            "<joe\0@example.org>",
            "<joe@example.org> X=\x7f",
            "<joe doe@example.org>",
            "<joe@@example.org>",
            "<joe@example.org>,<ann@example.org>",
            "<\"joe@example.org>",
            "<\"joe\r\nDATA\"@example.org>",
            "<\"joe\\\u{fc}\"@example.org>",
            "<joe@[192.0.2.1>",
            "<joe@[x>x]>",
            "<joe@[x<x]>",
            "<@a:>",
        ] {
            assert_eq!(forward(arguments), None, "{arguments}");
        }
        assert_eq!(forward_path(b"<j\xfcrgen@example.org>"), None);
    }

    #[test]
    fn parameters_need_what_they_belong_to() {
        let needs = |arguments: &str| {
            let (_, parameters) = reverse_path(arguments.as_bytes()).expect(arguments);
            parameters.iter().map(need_of_mail).collect::<Vec<_>>()
        };
        assert_eq!(
            needs("<> SIZE=1 BODY=8bitmime SMTPUTF8 RET=HDRS REQUIRETLS ENVID=a+2Bb"),
            [
                Extension::Size,
                Extension::EightBitMime,
                Extension::SmtpUtf8,
                Extension::Dsn,
                Extension::RequireTls,
                Extension::Dsn,
            ]
            .map(|extension| Ok(Need::Extension(extension)))
        );
        assert_eq!(
            needs("<> BODY=7BIT AUTH=<>"),
            [Ok(Need::Nothing), Ok(Need::NotForUpstreams)]
        );
        for unknown in [
            "BODY=BINARYMIME",
            "FUTUREUNKNOWN=1",
            "XCLIENT",
            "NOTIFY=NEVER",
        ] {
            let expected = [Err(ParameterMistake::Unknown)];
            assert_eq!(needs(&format!("<> {unknown}")), expected, "{unknown}");
        }
        let long = format!("ENVID={}", "x".repeat(101));
        for wrong in [
            "SIZE",
            "SIZE=-1",
            "SIZE=123456789012345678901",
            "BODY",
            "SMTPUTF8=1",
            "REQUIRETLS=1",
            "RET",
            "RET=BODY",
            "ENVID",
            "ENVID=a+2",
            "ENVID=a+2b",
            "ENVID=a+0D+0Ab",
            "ENVID=a+7F",
            "ENVID=a+FC",
            "ENVID=\u{fc}",
            "AUTH",
            &long,
        ] {
            let expected = [Err(ParameterMistake::Value)];
            assert_eq!(needs(&format!("<> {wrong}")), expected, "{wrong}");
        }
    }

    #[test]
    fn parameters_of_recipients() {
        let need = |parameter: &str| {
            let arguments = format!("<joe> {parameter}");
            let (_, parameters) = forward_path(arguments.as_bytes()).expect(parameter);
            let mut needs = parameters.iter().map(need_of_rcpt);
            needs.next().expect(parameter)
        };
        for sound in [
            "NOTIFY=NEVER",
            "notify=never",
            "NOTIFY=SUCCESS",
            "NOTIFY=DELAY,failure,SUCCESS",
            "ORCPT=rfc822;joe+2Bx@example.org",
            "ORCPT=rfc822;\"joe+20doe\"+7E",
            "ORCPT=utf-8;j\u{fc}rgen@example.org",
            "ORCPT=utf-8;j\\x{FC}rgen@example.org",
        ] {
            assert_eq!(need(sound), Ok(Need::Extension(Extension::Dsn)), "{sound}");
        }
        assert_eq!(need("RET=FULL"), Err(ParameterMistake::Unknown));
        for wrong in [
            "NOTIFY",
            "NOTIFY=NEVER,SUCCESS",
            "NOTIFY=SUCCESS,",
            "NOTIFY=SOMETIMES",
            "ORCPT=joe@example.org",
            "ORCPT=;joe",
            "ORCPT=rfc822;",
            "ORCPT=rfc822;a+b",
            "ORCPT=rfc822;a+0A",
            "ORCPT=rfc822;a+00",
            "ORCPT=rfc822;a+80",
            "ORCPT=rfc822;j\u{fc}rgen",
            "ORCPT=x@y;joe",
        ] {
            assert_eq!(need(wrong), Err(ParameterMistake::Value), "{wrong}");
        }
    }
}
