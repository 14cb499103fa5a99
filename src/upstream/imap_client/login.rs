//! Logging in: the best common mechanism, and what a refusal means (RFC 3501 §6.2, RFC 5530).

use tokio::time::Instant;

use super::{ImapClient, Received, contains};
use crate::failure::{Failure, FailureKind};
use crate::imap::Garbled;
use crate::imap::capability::{Capabilities, Capability};
use crate::imap::command::{Command, CommandName, Literals};
use crate::imap::response::{Code, Condition, Response, Status, Untagged};
use crate::sasl::{self, Credential, Mechanism, Proof};

impl ImapClient {
    /// Logs in by the best common mechanism; one attempt, whatever comes of it. Then greets with ID,
    /// without which some providers open no mailbox.
    ///
    /// # Errors
    /// `AuthRejected` only when the upstream said that the credential is wrong.
    pub async fn authenticate(&mut self, credential: &Credential) -> Result<(), Failure> {
        let capabilities = self.known_capabilities().await?;
        let choice = choose_mechanism(capabilities, credential, self.flight.is_planned())
            .map_err(|cause| FailureKind::Misconfigured.because(cause))?;
        self.credential = Some(credential.clone());
        // What was said before login does not hold after it (RFC 3501 §6.2.3).
        self.capabilities = None;
        let shown = self.show(credential, choice, capabilities).await;
        let status = shown.inspect_err(|_| self.give_up_flight())?;
        if status.condition != Condition::Ok {
            return Err(self.login_failure(&status));
        }
        let introduction = self.introduce().await;
        if let Err(failure) = &introduction {
            self.distrust_what_follows_authenticate(failure);
        }
        introduction
    }

    /// LOGIN or AUTHENTICATE.
    async fn show(
        &mut self,
        credential: &Credential,
        choice: Choice,
        capabilities: Capabilities,
    ) -> Result<Status, Failure> {
        match (choice, credential.proof()) {
            (Choice::Login, Proof::Password(password)) => {
                let literals = Literals::from(capabilities);
                let command = Command::login(credential.login(), password, literals);
                self.run(command, |_| {}).await
            }
            (Choice::Login, Proof::BearerToken(_)) => {
                Err(FailureKind::Misconfigured.because("LOGIN cannot carry a token"))
            }
            (Choice::Authenticate(mechanism), _) => {
                let at_once = capabilities.has(Capability::SaslIr);
                self.exchange(mechanism, credential, at_once).await
            }
        }
    }

    /// What the upstream can do for who has logged in, and ID.
    async fn introduce(&mut self) -> Result<(), Failure> {
        let volunteers = self.capabilities.is_some();
        let capabilities = self.known_capabilities().await?;
        self.upstream.note(|seen| {
            seen.after_login = Some(capabilities);
            seen.volunteers_capabilities = volunteers;
        });
        if capabilities.has(Capability::Id) {
            // Its answer, even NO, changes nothing.
            self.run(Command::id(env!("CARGO_PKG_VERSION")), |_| {})
                .await?;
        }
        Ok(())
    }

    /// AUTHENTICATE (RFC 3501 §6.2.2, RFC 4959)
    async fn exchange(
        &mut self,
        mechanism: Mechanism,
        credential: &Credential,
        at_once: bool,
    ) -> Result<Status, Failure> {
        let endpoint = &self.upstream.settings().imap;
        let response = credential
            .response(mechanism, &endpoint.host, endpoint.port)
            .ok_or_else(|| FailureKind::Misconfigured.because("a mechanism without a response"))?;
        let initial_response = at_once.then_some(&response);
        let command = Command::authenticate(mechanism.name(), initial_response);
        let started = Instant::now();
        let tag = self.send(&command);
        if at_once {
            self.send_behind_authenticate();
        }
        let mut answers = Vec::new();
        // The challenge after a refused token explains the refusal; it wants an empty answer.
        answers.push(match mechanism {
            Mechanism::OauthBearer => &b"AQ=="[..],
            _ => b"",
        });
        if !at_once {
            answers.push(response.expose());
        }
        let mut explanation = None;
        let mut status = loop {
            match self.receive().await? {
                Received::Response(Response::Continuation(challenge)) => {
                    let answer = answers
                        .pop()
                        .ok_or(Garbled("more challenges than the mechanism has"))?;
                    explanation = answers.is_empty().then_some(challenge);
                    self.stream.output_secret(answer);
                    self.stream.output_beside_secret(b"\r\n");
                    self.send_behind_authenticate();
                }
                Received::Response(Response::Tagged { tag: ended, status }) if ended == tag => {
                    break status;
                }
                other => self.other(other, &mut |_| {}).await?,
            }
        };
        self.observe(CommandName::Authenticate, &status, started);
        // Where more went out with the token, the upstream has taken that for the empty answer, and may say
        // BAD to it (Dovecot). The refusal has been said before.
        if let (Some(explanation), Mechanism::OauthBearer | Mechanism::Xoauth2) =
            (explanation, mechanism)
            && status.condition != Condition::Ok
        {
            status.code.get_or_insert(Code::AuthenticationFailed);
            if let Ok(explanation) = sasl::decode(&explanation)
                && !explanation.expose().is_empty()
            {
                status.text = explanation.expose().to_vec();
            }
        }
        Ok(status)
    }

    /// RFC 5530 says what a NO means; where there is no code, it means the credential.
    fn login_failure(&self, status: &Status) -> Failure {
        let kind = match (&status.code, status.condition) {
            (Some(Code::AuthenticationFailed | Code::Expired), _) => FailureKind::AuthRejected,
            (Some(Code::Unavailable | Code::Limit | Code::ServerBug | Code::Corruption), _) => {
                FailureKind::AuthUnavailable
            }
            (Some(Code::InUse), _) => FailureKind::MaildropInUse,
            (
                Some(
                    Code::AuthorizationFailed
                    | Code::PrivacyRequired
                    | Code::ContactAdmin
                    | Code::NoPermission
                    | Code::Cannot,
                ),
                _,
            ) => FailureKind::Misconfigured,
            _ if speaks_of_throttling(&status.text) => FailureKind::AuthUnavailable,
            (_, Condition::Bad) => FailureKind::OurMistake,
            _ => FailureKind::AuthRejected,
        };
        kind.because(format!("login: {}", self.quote(&status.text)))
    }

    /// Names what will be asked behind the login, if the upstream is as it was when somebody logged in
    /// last: capabilities, ID, UTF8 if that is wanted, and then what `opening` makes of its
    /// capabilities and of whether UTF8 can be enabled.
    pub fn anticipate_login(
        &mut self,
        wants_utf8: bool,
        opening: impl FnOnce(Capabilities, bool) -> Vec<Command>,
    ) {
        let seen = self.upstream.seen();
        let Some(capabilities) = seen.after_login else {
            return;
        };
        if !seen.volunteers_capabilities {
            self.anticipate([Command::capability()]);
        }
        if capabilities.has(Capability::Id) {
            self.anticipate([Command::id(env!("CARGO_PKG_VERSION"))]);
        }
        let utf8 = wants_utf8 && can_enable_utf8(capabilities);
        if utf8 {
            self.anticipate([Command::enable_utf8()]);
        }
        self.anticipate(opening(capabilities, utf8));
    }

    /// ENABLE UTF8=ACCEPT (RFC 9755), if the upstream can.
    ///
    /// # Errors
    /// When it was lost.
    pub async fn enable_utf8(&mut self) -> Result<(), Failure> {
        if self.capabilities.is_some_and(can_enable_utf8) {
            let mut enabled = false;
            self.run(Command::enable_utf8(), |untagged| {
                if let Untagged::Enabled(what) = untagged {
                    enabled |= what.has(Capability::Utf8Accept);
                }
            })
            .await?;
            self.utf8 = enabled;
        }
        Ok(())
    }

    /// ENABLE QRESYNC (RFC 7162 §3.2.3). From then on the upstream says VANISHED instead of EXPUNGE.
    /// Whether it is enabled.
    ///
    /// # Errors
    /// When it was lost.
    pub async fn enable_qresync(&mut self) -> Result<bool, Failure> {
        let mut enabled = false;
        self.run(Command::enable_qresync(), |untagged| {
            if let Untagged::Enabled(what) = untagged {
                enabled |= what.has(Capability::QResync);
            }
        })
        .await?;
        Ok(enabled)
    }
}

fn can_enable_utf8(capabilities: Capabilities) -> bool {
    capabilities.has(Capability::Utf8Accept) && capabilities.has(Capability::Enable)
}

/// Gmail (2016) and others refuse a login that comes too often with nothing but a text:
/// `NO [ALERT] Too many simultaneous connections. (Failure)`; Exchange Online (2020) even with
/// `BAD Request is throttled. Suggested Backoff Time: 89117 milliseconds`. To call that a wrong password would make
/// clients ask for it.
fn speaks_of_throttling(text: &[u8]) -> bool {
    [
        &b"too many"[..],
        b"throttled",
        b"simultaneous connections",
        b"try again later",
        b"temporar",
        b"rate limit",
        b"unavailable",
        b"exceeded",
    ]
    .iter()
    .any(|phrase| contains(text, phrase))
}

enum Choice {
    Login,
    Authenticate(Mechanism),
}

/// The mechanism by which this credential fits through this upstream, with the fewest flights. Where more
/// is to go out with it, that is LOGIN, which cannot turn what follows it into its own.
fn choose_mechanism(
    capabilities: Capabilities,
    credential: &Credential,
    with_a_flight: bool,
) -> Result<Choice, &'static str> {
    let plain = capabilities.has(Capability::AuthPlain);
    let login = !capabilities.has(Capability::LoginDisabled);
    match credential.proof() {
        Proof::BearerToken(_) if capabilities.has(Capability::AuthOauthBearer) => {
            Ok(Choice::Authenticate(Mechanism::OauthBearer))
        }
        Proof::BearerToken(_) if capabilities.has(Capability::AuthXoauth2) => {
            Ok(Choice::Authenticate(Mechanism::Xoauth2))
        }
        Proof::BearerToken(_) => Err("the upstream takes no OAuth token"),
        // Only PLAIN can say as whom to act.
        Proof::Password(_) if credential.authorize_as().is_some() => match plain {
            true => Ok(Choice::Authenticate(Mechanism::Plain)),
            false => {
                Err("the client wants to act as somebody else, and the upstream has no AUTH=PLAIN")
            }
        },
        // In LOGIN, what is not ASCII means something else to every server.
        Proof::Password(_) if login && with_a_flight && credential.is_ascii() => Ok(Choice::Login),
        Proof::Password(_) if plain && capabilities.has(Capability::SaslIr) => {
            Ok(Choice::Authenticate(Mechanism::Plain))
        }
        Proof::Password(_) if login => Ok(Choice::Login),
        Proof::Password(_) if plain => Ok(Choice::Authenticate(Mechanism::Plain)),
        Proof::Password(_) => Err("the upstream takes no password (LOGINDISABLED)"),
    }
}
