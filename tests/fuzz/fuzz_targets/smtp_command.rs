//! One line of a client that sends: understood or refused; and what is said to an upstream of it is one
//! line that means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate::smtp::command::{Command, write_mail, write_rcpt};

fuzz_target!(|line: &[u8]| {
    let Ok(command) = Command::parse(line) else {
        return;
    };
    let verb_end = line.iter().position(|octet| matches!(octet, b' ' | b'\t'));
    let (verb, arguments) = line.split_at(verb_end.unwrap_or(line.len()));
    let label = command.name().label();
    assert!(verb.eq_ignore_ascii_case(label.as_bytes()));
    let lower = [verb.to_ascii_lowercase().as_slice(), arguments].concat();
    assert_eq!(Command::parse(&lower).as_ref(), Ok(&command));
    let trailed = [line, b"  "].concat();
    assert_eq!(Command::parse(&trailed).as_ref(), Ok(&command));

    let mut written = Vec::new();
    match &command {
        Command::Mail(from, parameters) => write_mail(from, parameters.iter(), &mut written),
        Command::Rcpt(to, parameters) => write_rcpt(to, parameters.iter(), &mut written),
        _ => return,
    }
    let written = written.strip_suffix(b"\r\n").expect("a line");
    let is_harmless = |octet: &u8| *octet >= b' ' && *octet != 0x7f;
    assert!(
        written.iter().all(is_harmless),
        "{}",
        written.escape_ascii()
    );
    assert_eq!(Command::parse(written), Ok(command));
});
