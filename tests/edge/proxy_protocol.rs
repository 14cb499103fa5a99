//! The PROXY protocol: required of whom it is expected from, and of no use to anybody else.

use std::fs;
use std::path::Path;

use crate::process::{Connection, Popgate, Setting};

const REJECTED: &str =
    "popgate_connections_rejected_total{listener=\"pop3\",reason=\"proxy_header\"}";

const VERSION_2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x0a\x00\x00\x01\x80\x00\x00\x6e";

fn behind_a_balancer(more: &str) -> Popgate {
    Popgate::start(&Setting {
        sections: &format!("[security]\nproxy_protocol_from = [\"127.0.0.0/8\"]\n{more}"),
        ..Setting::default()
    })
}

#[test]
fn the_header_tells_the_client() {
    let mut popgate = behind_a_balancer("");
    for header in [
        &b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 110\r\n"[..],
        VERSION_2,
    ] {
        let mut connection = Connection::to(popgate.addresses()[0]);
        // In one piece with what the client says.
        connection.send(&[header, b"USER demo\r\nQUIT\r\n"].concat());
        connection.expect("+OK");
        // Of 192.0.2.7 no password is taken in clear text.
        connection.expect("-ERR");
        connection.expect("+OK");
    }
    popgate.wait_for_log("client=192.0.2.7");

    // A client of this machine may log in.
    let mut connection = popgate.connect();
    connection.say("PROXY TCP6 ::1 ::1 5000 110");
    connection.log_in();
}

/// `PROXY UNKNOWN`, and in version 2 LOCAL and UNSPEC.
const WITHOUT_ADDRESS: [&[u8]; 3] = [
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00",
];

/// What this machine may do, on which the balancer is, is not for whoever comes through it.
#[test]
fn who_has_no_address_gets_nothing_by_it() {
    for login in ["\"loopback\"", "[\"127.0.0.0/8\"]"] {
        let popgate = behind_a_balancer(&format!("cleartext_login = {login}\n"));
        for header in WITHOUT_ADDRESS {
            let mut connection = popgate.connect();
            connection.send(header);
            connection.expect("+OK");
            assert_eq!(&connection.ask("USER demo")[..4], "-ERR");
        }
    }
    let popgate = behind_a_balancer("cleartext_login = \"always\"\n");
    for header in WITHOUT_ADDRESS {
        let mut connection = popgate.connect();
        connection.send(header);
        connection.log_in();
    }
}

#[test]
fn who_has_no_address_does_not_send_without_a_login() {
    let prepare = |folder: &Path| fs::write(folder.join("password"), "demo").expect("written");
    let popgate = Popgate::start(&Setting {
        sections: "[security]\nproxy_protocol_from = [\"127.0.0.0/8\"]\n\
                   [smtp]\nlisten = [\"127.0.0.1:0\"]\n\
                   [smtp.unauthenticated]\nnetworks = [\"127.0.0.0/8\"]\nlogin = \"scanner\"\n\
                   password_file = \"password\"\n\
                   [upstream.sending]\nimap = \"imap://127.0.0.1:9\"\nsmtp = \"smtp://127.0.0.1:9\"\n\
                   [[route]]\nlogin = \"scanner\"\nupstream = \"sending\"\n\
                   [[route]]\nlogin = \"*\"\nupstream = \"default\"\n",
        prepare: Some(&prepare),
        ..Setting::default()
    });
    let reply = |header: &[u8]| {
        let mut connection = Connection::to(popgate.addresses()[1]);
        connection.send(header);
        connection.expect("220");
        connection.say("EHLO me");
        while connection.line().starts_with("250-") {}
        connection.ask("MAIL FROM:<demo@example.org>")
    };
    for header in WITHOUT_ADDRESS {
        let reply = reply(header);
        assert!(reply.starts_with("530"), "{reply}");
    }
    // Whose address is told gets as far as the upstream, of which there is none.
    let reply = reply(b"PROXY TCP4 127.0.0.1 127.0.0.1 5000 587\r\n");
    assert!(reply.starts_with("4"), "{reply}");
}

#[test]
fn without_the_header_nobody_gets_in() {
    let mut popgate = behind_a_balancer("");
    // A health check is not counted.
    popgate.connect().close();
    for beginning in [
        "USER demo\r\nPASS demo",
        "PROXY TCP4 192.0.2.7 10.0.0.1 5000",
    ] {
        let mut connection = popgate.connect();
        connection.say(beginning);
        assert_eq!(connection.rest(), "");
    }
    popgate.wait_for_metric(REJECTED, 2.0);
    popgate.wait_for_log("a connection of security.proxy_protocol_from is closed");
}

#[test]
fn a_header_that_never_ends_falls_under_the_login_limit() {
    let popgate = behind_a_balancer("[timeouts]\nlogin = \"1s\"\n");
    let mut connection = popgate.connect();
    connection.send(b"PROXY TCP4");
    assert_eq!(connection.rest(), "");
    popgate.wait_for_metric(REJECTED, 1.0);
}

#[test]
fn elsewhere_the_header_is_no_command() {
    let popgate = Popgate::start(&Setting {
        sections: "[security]\nproxy_protocol_from = [\"192.0.2.0/24\"]\n",
        ..Setting::default()
    });
    let mut connection = popgate.connect();
    connection.expect("+OK");
    assert_eq!(
        &connection.ask("PROXY TCP4 192.0.2.7 10.0.0.1 5000 110")[..4],
        "-ERR"
    );
    assert_eq!(&connection.ask("QUIT")[..3], "+OK");
}

/// The limit is about clients, not about the balancer that all of them come through.
#[test]
fn connections_are_counted_by_the_client() {
    let popgate = behind_a_balancer("[limits]\nconnections_per_address = 1\n");
    let from = |address: &str| {
        let mut connection = popgate.connect();
        connection.say(&format!("PROXY TCP6 {address} ::1 5000 110"));
        connection
    };
    let mut first = from("2001:db8:0:1::1");
    first.expect("+OK");
    let mut same_site = from("2001:db8:0:1::2");
    same_site.expect("-ERR [SYS/TEMP]");
    assert_eq!(same_site.rest(), "");
    let mut other = from("2001:db8:0:2::1");
    other.expect("+OK");
}
