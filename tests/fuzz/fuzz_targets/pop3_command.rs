//! One line of a client: understood or refused, and what was understood is what was said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate::pop3::command::{Command, MessageNumber};

fuzz_target!(|line: &[u8]| {
    let Ok(command) = Command::parse(line) else {
        return;
    };
    let spelt = spell(&command);
    assert_eq!(Command::parse(&spelt).as_ref(), Ok(&command));
    assert!(
        spelt.len() <= line.len(),
        "more was understood than was said"
    );

    let verb_end = line.iter().position(|octet| *octet == b' ');
    let (verb, arguments) = line.split_at(verb_end.unwrap_or(line.len()));
    let label = command.name().label();
    assert!(verb.eq_ignore_ascii_case(label.as_bytes()));
    let lower = [verb.to_ascii_lowercase().as_slice(), arguments].concat();
    assert_eq!(Command::parse(&lower).as_ref(), Ok(&command));
    if !matches!(command, Command::Pass(_)) {
        let trailed = [line, b"  "].concat();
        assert_eq!(Command::parse(&trailed), Ok(command));
    }
});

/// The shortest line that means this.
fn spell(command: &Command) -> Vec<u8> {
    let number = |verb: &str, number: &MessageNumber| format!("{verb} {}", number.number());
    let maybe = |verb: &str, of: &Option<MessageNumber>| match of {
        Some(of) => number(verb, of).into_bytes(),
        None => verb.as_bytes().to_vec(),
    };
    match command {
        Command::Capa => b"CAPA".to_vec(),
        Command::User(name) => [b"USER ", name.as_slice()].concat(),
        Command::Pass(password) => [b"PASS ", password.expose()].concat(),
        Command::AuthList => b"AUTH".to_vec(),
        Command::Auth {
            mechanism,
            initial_response: None,
        } => [b"AUTH ", mechanism.as_slice()].concat(),
        Command::Auth {
            mechanism,
            initial_response: Some(response),
        } => [b"AUTH ", mechanism.as_slice(), b" ", response.expose()].concat(),
        Command::Stls => b"STLS".to_vec(),
        Command::Utf8 => b"UTF8".to_vec(),
        Command::Quit => b"QUIT".to_vec(),
        Command::Noop => b"NOOP".to_vec(),
        Command::Stat => b"STAT".to_vec(),
        Command::List(of) => maybe("LIST", of),
        Command::Retr(of) => number("RETR", of).into_bytes(),
        Command::Dele(of) => number("DELE", of).into_bytes(),
        Command::Rset => b"RSET".to_vec(),
        Command::Top { number: of, lines } => format!("{} {lines}", number("TOP", of)).into_bytes(),
        Command::Uidl(of) => maybe("UIDL", of),
        Command::Last => b"LAST".to_vec(),
    }
}
