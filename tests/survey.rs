//! What `popgate check --online` tells of an upstream, which is the demo's here.

use std::sync::Arc;

use popgate::config::{Config, Flags};
use popgate::demo::{PASSWORD, SampleUpstream, USER};
use popgate::sasl::Credential;
use popgate::secret::Secret;
use popgate::session::survey::survey;
use popgate::upstream::TcpDialer;
use tokio_util::sync::CancellationToken;

/// The report under a setting of `unique_id`, which may depend on the UIDVALIDITY of the INBOX.
async fn report(unique_id: impl Fn(u32) -> String) -> (String, u32) {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let sample = SampleUpstream::bind(loopback).await.expect("loopback");
    let validity = {
        let store = sample.store();
        let mailboxes = store.lock();
        let inbox = mailboxes.find("INBOX").expect("an INBOX");
        mailboxes.get(inbox).uid_validity()
    };
    let variables = [
        (
            "POPGATE__UPSTREAM__DEFAULT__IMAP",
            format!("imap://{}", sample.local_address()),
        ),
        ("POPGATE__MAILDROP__UNIQUE_ID", unique_id(validity)),
        ("POPGATE__MAILDROP__NEWEST_MESSAGES", "3".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let config = Config::load(None, variables, &Flags::default()).expect("sound");
    let shutdown = CancellationToken::new();
    let _end = shutdown.clone().drop_guard();
    tokio::spawn(sample.run(shutdown.clone()));
    popgate::tls::install_provider();
    let gateway = popgate::gateway(&config, Arc::new(TcpDialer), shutdown).expect("a gateway");
    let password = Secret::new(PASSWORD.as_bytes().to_vec());
    let credential = Credential::password(USER.as_bytes(), password).expect("sound");
    let upstream = gateway.accounts.upstreams().next().expect("the only one");
    let report = survey(upstream, Some(&credential)).await.expect("reached");
    (report, validity)
}

#[tokio::test]
async fn unique_ids_that_begin_anew_are_to_be_pinned() {
    let (plain, validity) = report(|_| "uid".to_owned()).await;
    let advice = format!(
        "  unique_id = \"uid\": begins anew when UIDVALIDITY changes; write \"uid:{validity}\"\n"
    );
    assert!(plain.contains(&advice), "{plain}");

    let (pinned, validity) = report(|validity| format!("uid:{validity}")).await;
    let finding = format!("  unique_id = \"uid:{validity}\": holds\n");
    assert!(pinned.contains(&finding), "{pinned}");

    let (elsewhere, validity) = report(|_| "uid:1".to_owned()).await;
    let finding = format!(
        "  unique_id = \"uid:1\": unique-ids are like {validity}.907, UIDVALIDITY is another one\n"
    );
    assert!(elsewhere.contains(&finding), "{elsewhere}");

    let (other, _) = report(|_| "dovecot".to_owned()).await;
    assert!(!other.contains("unique_id"), "{other}");
    let window = "  newest_messages = 3: POP3 shows only so many, the newest\n";
    assert!(other.contains(window), "{other}");
}
