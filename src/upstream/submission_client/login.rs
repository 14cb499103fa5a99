//! AUTH (RFC 4954): the best common mechanism, and what a refusal means.

use super::SubmissionClient;
use crate::failure::{Failure, FailureKind};
use crate::sasl::{self, Credential, Mechanism, Proof};
use crate::secret::Secret;
use crate::smtp::Garbled;
use crate::smtp::extension::{Extension, Extensions};
use crate::smtp::reply::{Class, Reply};

/// Octets of a command with an initial response (RFC 5321 §4.5.3.1.4, RFC 4954 §4).
const COMMAND_OCTETS_MAX: usize = 512;

/// Octets of a response (RFC 4954 §4), line end included.
const RESPONSE_OCTETS_MAX: usize = 12_288;

impl SubmissionClient {
    /// Logs in by the best common mechanism; one attempt, whatever comes of it.
    ///
    /// # Errors
    /// `AuthRejected` only when the upstream said that the credential is wrong.
    pub async fn authenticate(&mut self, credential: &Credential) -> Result<(), Failure> {
        let misconfigured = |cause: &str| FailureKind::Misconfigured.because(cause);
        let mechanism = choose_mechanism(self.extensions, credential).map_err(misconfigured)?;
        let mut answers = self.answers(mechanism, credential);
        if answers
            .iter()
            .any(|answer| answer.expose().len() + 2 > RESPONSE_OCTETS_MAX)
        {
            return Err(misconfigured(
                "the credential is longer than RFC 4954 permits",
            ));
        }
        self.credential = Some(credential.clone());
        let mut command = format!("AUTH {}", mechanism.name()).into_bytes();
        // The first answer may come with the command, where that is short enough; LOGIN's never does,
        // since no document says so.
        let first = answers.last().filter(|first| {
            let octets = command.len() + 1 + first.expose().len() + 2;
            mechanism != Mechanism::Login && octets <= COMMAND_OCTETS_MAX
        });
        if let Some(first) = first {
            command.push(b' ');
            command.extend_from_slice(first.expose());
            answers.pop();
        }
        let command = Secret::new(command);
        let mut reply = self.respond(&command).await?;
        while reply.code == 334 {
            let answer = answers
                .pop()
                .ok_or(Garbled("more challenges than the mechanism has"))?;
            reply = self.respond(&answer).await?;
        }
        match reply.class() {
            Class::Done => {
                self.be_patient();
                Ok(())
            }
            _ => Err(self.login_failure(&reply)),
        }
    }

    /// What is said to one challenge after the other, the last one first.
    fn answers(&self, mechanism: Mechanism, credential: &Credential) -> Vec<Secret> {
        let endpoint = self.upstream.settings().smtp.as_ref();
        let (host, port) = endpoint.map_or(("", 0), |it| (it.host.as_str(), it.port));
        let response = || credential.response(mechanism, host, port).into_iter();
        match (mechanism, credential.proof()) {
            (Mechanism::Login, Proof::Password(password) | Proof::BearerToken(password)) => vec![
                sasl::encode(password.expose()),
                sasl::encode(credential.login()),
            ],
            (Mechanism::Plain, _) => response().collect(),
            // A challenge behind the response explains the refusal; it wants an empty answer.
            (Mechanism::Xoauth2, _) => [Secret::new(Vec::new())]
                .into_iter()
                .chain(response())
                .collect(),
            (Mechanism::OauthBearer, _) => [Secret::new(b"AQ==".to_vec())]
                .into_iter()
                .chain(response())
                .collect(),
        }
    }

    async fn respond(&mut self, line: &Secret) -> Result<Reply, Failure> {
        self.stream.output_secret(line.expose());
        self.stream.output_beside_secret(b"\r\n");
        self.reply().await
    }

    /// RFC 4954 §6 and RFC 3463 say what a refusal means; 535 is about the credential, unless its text
    /// says that nobody's would do.
    fn login_failure(&self, reply: &Reply) -> Failure {
        let text = reply.text().to_ascii_lowercase();
        let speaks_of = |phrase: &[u8]| memchr::memmem::find(&text, phrase).is_some();
        let kind = match (reply.code, reply.class()) {
            // Exchange Online since 2020: 535 5.7.139 … SmtpClientAuthentication is disabled for the Tenant.
            (535, _) if speaks_of(b"is disabled") => FailureKind::Misconfigured,
            (535, _) => FailureKind::AuthRejected,
            // Gmail: 534-5.7.9 Application-specific password required. The user has to type another one.
            (534, _) if speaks_of(b"password required") => FailureKind::AuthRejected,
            (_, Class::NotNow) => FailureKind::AuthUnavailable,
            (500..=503, _) => FailureKind::OurMistake,
            (_, Class::Never) => FailureKind::Misconfigured,
            (_, Class::Done | Class::GoOn) => FailureKind::UpstreamGarbled,
        };
        kind.because(format!("login: {}", self.quote(reply)))
    }
}

/// The mechanism by which this credential fits through this upstream.
fn choose_mechanism(
    extensions: Extensions,
    credential: &Credential,
) -> Result<Mechanism, &'static str> {
    match credential.proof() {
        Proof::BearerToken(_) if extensions.has(Extension::AuthOauthBearer) => {
            Ok(Mechanism::OauthBearer)
        }
        Proof::BearerToken(_) if extensions.has(Extension::AuthXoauth2) => Ok(Mechanism::Xoauth2),
        Proof::BearerToken(_) => Err("the submission server takes no OAuth token"),
        Proof::Password(_) if extensions.has(Extension::AuthPlain) => Ok(Mechanism::Plain),
        // Only PLAIN can say as whom to act.
        Proof::Password(_) if credential.authorize_as().is_some() => Err(
            "the client wants to act as somebody else, and the submission server has no AUTH PLAIN",
        ),
        Proof::Password(_) if extensions.has(Extension::AuthLogin) => Ok(Mechanism::Login),
        Proof::Password(_) => Err("the submission server takes no password"),
    }
}
