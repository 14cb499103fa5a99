//! One FETCH response (RFC 3501 §7.4.2).

use super::command::{FetchItem, Section};
use super::view::flag_list;
use crate::demo::mailbox::SampleMessage;
use crate::demo::rfc822;

/// Writes `* number FETCH (…)`.
pub(super) fn write(
    output: &mut Vec<u8>,
    number: u32,
    message: &SampleMessage,
    items: &[FetchItem],
) {
    output.extend(format!("* {number} FETCH (").into_bytes());
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            output.push(b' ');
        }
        write_item(output, message, item);
    }
    output.extend_from_slice(b")\r\n");
}

fn write_item(output: &mut Vec<u8>, message: &SampleMessage, item: &FetchItem) {
    let text = match item {
        FetchItem::Uid => format!("UID {}", message.uid()),
        FetchItem::Flags => format!("FLAGS {}", flag_list(message.flags())),
        FetchItem::InternalDate => format!("INTERNALDATE \"{}\"", message.internal_date()),
        FetchItem::Size => format!("RFC822.SIZE {}", message.octets().len()),
        FetchItem::Body {
            label,
            section,
            partial,
            ..
        } => {
            let octets = section_octets(message.octets(), section);
            let octets = cut(&octets, *partial);
            output.extend(format!("{label} {{{}}}\r\n", octets.len()).into_bytes());
            output.extend_from_slice(octets);
            return;
        }
    };
    output.extend(text.into_bytes());
}

fn section_octets<'a>(message: &'a [u8], section: &Section) -> std::borrow::Cow<'a, [u8]> {
    let (header, text) = rfc822::split(message);
    let named = |names: &[String], field: &[u8]| {
        let name = rfc822::name(field);
        names
            .iter()
            .any(|it| it.as_bytes().eq_ignore_ascii_case(name))
    };
    match section {
        Section::Whole => message.into(),
        Section::Header => header.into(),
        Section::Text => text.into(),
        Section::HeaderFields(names) => subset(header, |field| named(names, field)).into(),
        Section::HeaderFieldsNot(names) => subset(header, |field| !named(names, field)).into(),
    }
}

/// The empty line is always part of a subset.
fn subset(header: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let fields: Vec<_> = rfc822::fields(header)
        .filter(|field| wanted(field))
        .collect();
    [fields.concat(), b"\r\n".to_vec()].concat()
}

/// What is beyond the end is not there, without being an error.
fn cut(octets: &[u8], partial: Option<(u32, u32)>) -> &[u8] {
    let Some((origin, length)) = partial else {
        return octets;
    };
    let octets = octets.get(origin as usize..).unwrap_or_default();
    octets.get(..length as usize).unwrap_or(octets)
}
