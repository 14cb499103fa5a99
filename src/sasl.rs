//! SASL (RFC 4422) as both sides need it: PLAIN (RFC 4616), LOGIN, XOAUTH2, OAUTHBEARER (RFC 7628).
//!
//! What a client sends becomes a [`Credential`] that cannot hold anything which would mean more than
//! one argument upstream; what the upstream is sent is made from it alone.

use std::hash::{BuildHasher, RandomState};
use std::{iter, mem};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// So many octets of a secret in a row are taken for an echo of it.
const ECHO_OCTETS_MIN: usize = 6;

/// The mechanisms that popgate speaks on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616
    Plain,
    /// draft-murchison-sasl-login: what scanners and Outlook know.
    Login,
    /// Google's and Microsoft's forerunner of OAUTHBEARER.
    Xoauth2,
    /// RFC 7628
    OauthBearer,
}

impl Mechanism {
    /// In any case; `None` for all that we do not speak.
    pub fn parse(name: &[u8]) -> Option<Self> {
        [Self::Plain, Self::Login, Self::Xoauth2, Self::OauthBearer]
            .into_iter()
            .find(|mechanism| name.eq_ignore_ascii_case(mechanism.name().as_bytes()))
    }

    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::Xoauth2 => "XOAUTH2",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// With what a client wants in. None of its strings holds NUL, CR or LF; login and proof are not empty:
/// some directories take an empty password for a wish to be nobody in particular. The login of a token
/// holds no `^A` either, which parts the fields of both token mechanisms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    login: Vec<u8>,
    authorize_as: Option<Vec<u8>>,
    proof: Proof,
}

/// What proves the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A password, byte by byte as typed.
    Password(Secret),
    /// An OAuth 2.0 access token that the client got by itself.
    BearerToken(Secret),
}

/// The exchange broke the mechanism's grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl Credential {
    /// From USER and PASS, or the two answers of LOGIN.
    ///
    /// # Errors
    /// When there is no login, or an octet that no upstream could be told safely.
    pub fn password(login: &[u8], password: Secret) -> Result<Self, Malformed> {
        Self::new(login, None, Proof::Password(password))
    }

    fn new(login: &[u8], authorize_as: Option<&[u8]>, proof: Proof) -> Result<Self, Malformed> {
        let (Proof::Password(secret) | Proof::BearerToken(secret)) = &proof;
        let harmless = |text: &[u8]| memchr::memchr3(0, b'\r', b'\n', text).is_none();
        let is_one_field = match proof {
            Proof::Password(_) => true,
            Proof::BearerToken(_) => memchr::memchr(1, login).is_none(),
        };
        let sound = !login.is_empty()
            && !secret.is_empty()
            && is_one_field
            && harmless(login)
            && harmless(secret.expose())
            && authorize_as.is_none_or(harmless);
        sound
            .then(|| {
                Self {
                    login: login.to_vec(),
                    authorize_as: authorize_as.map(<[u8]>::to_vec),
                    proof,
                }
                .named_once()
            })
            .ok_or(Malformed)
    }

    /// A client that names itself twice wants nothing special; some servers would refuse it.
    fn named_once(mut self) -> Self {
        self.authorize_as
            .take_if(|name| name.is_empty() || *name == self.login);
        self
    }

    /// Whether login and proof are ASCII, which every server reads alike.
    pub fn is_ascii(&self) -> bool {
        let (Proof::Password(secret) | Proof::BearerToken(secret)) = &self.proof;
        self.login.is_ascii() && secret.expose().is_ascii()
    }

    /// From the (only) client response of a mechanism; LOGIN has two and is made by [`Credential::password`].
    ///
    /// # Errors
    /// When it is not of the mechanism's form.
    pub fn from_response(mechanism: Mechanism, response: &Secret) -> Result<Self, Malformed> {
        match mechanism {
            Mechanism::Plain => plain(response.expose()),
            Mechanism::Xoauth2 => xoauth2(response.expose()),
            Mechanism::OauthBearer => oauth_bearer(response.expose()),
            Mechanism::Login => Err(Malformed),
        }
    }

    /// The same in UTF-8: each of its strings that is not is read as Latin-1. None becomes empty by
    /// that, nor gets an octet that no upstream could be told.
    pub fn read_as_latin1(mut self) -> Self {
        for name in iter::once(&mut self.login).chain(&mut self.authorize_as) {
            if let Some(utf8) = utf8_of_latin1(name) {
                *name = utf8;
            }
        }
        // A token is ASCII.
        if let Proof::Password(password) = &mut self.proof
            && let Some(utf8) = utf8_of_latin1(password.expose())
        {
            *password = Secret::new(utf8);
        }
        self.named_once()
    }

    /// The same with `@` in each of its names at the place that is told of it, if one is.
    pub fn with_at_sign(mut self, place: impl Fn(&[u8]) -> Option<usize>) -> Self {
        for name in iter::once(&mut self.login).chain(&mut self.authorize_as) {
            if let Some(octet) = place(name).and_then(|place| name.get_mut(place)) {
                *octet = b'@';
            }
        }
        self.named_once()
    }

    /// By which the same credential is known again under the same keys, and by nobody without them.
    pub fn fingerprint(&self, keys: &RandomState) -> u64 {
        let (Proof::Password(secret) | Proof::BearerToken(secret)) = &self.proof;
        let kind = mem::discriminant(&self.proof);
        keys.hash_one((&self.login, &self.authorize_as, kind, secret.expose()))
    }

    /// Whose credential it is.
    pub fn login(&self) -> &[u8] {
        &self.login
    }

    /// Whose mailbox it opens.
    pub fn mailbox_owner(&self) -> &[u8] {
        self.authorize_as().unwrap_or(self.login())
    }

    /// As whom the client wants to act, if not as itself (RFC 4616: authzid).
    pub fn authorize_as(&self) -> Option<&[u8]> {
        self.authorize_as.as_deref()
    }

    /// What proves it.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Whether a text repeats the secret or a stretch of it: plainly, quoted, or within any base64;
    /// such a text goes into no log.
    pub fn is_echoed_in(&self, text: &[u8]) -> bool {
        let (Proof::Password(secret) | Proof::BearerToken(secret)) = &self.proof;
        let text = Zeroizing::new(text.to_ascii_lowercase());
        // Sorted, so that a long token costs no look through all of a long text for each of its stretches.
        let mut stretches: Vec<&[u8]> = text.windows(ECHO_OCTETS_MIN).collect();
        stretches.sort_unstable();
        let repeats = |spelling: &[u8]| {
            let spelling = Zeroizing::new(spelling.to_ascii_lowercase());
            if spelling.len() < ECHO_OCTETS_MIN {
                return !spelling.is_empty() && memchr::memmem::find(&text, &spelling).is_some();
            }
            spelling
                .windows(ECHO_OCTETS_MIN)
                .any(|stretch| stretches.binary_search(&stretch).is_ok())
        };
        // Base64 knows three alignments; its first and last characters depend on the neighbours.
        let in_base64 = (0..3).any(|alignment| {
            let mut message = Zeroizing::new(vec![0; alignment]);
            message.reserve_exact(secret.expose().len());
            message.extend_from_slice(secret.expose());
            let encoded = encode(&message);
            let inner = encoded
                .expose()
                .get(4..encoded.expose().len().saturating_sub(4));
            inner.is_some_and(|inner| inner.len() >= ECHO_OCTETS_MIN && repeats(inner))
        });
        // Of a short secret that leaves nothing: it is found as all of an answer, of LOGIN or PLAIN.
        let plain = self.response(Mechanism::Plain, "", 0);
        let whole_in_base64 = iter::once(encode(secret.expose()))
            .chain(plain)
            .any(|answer| {
                // Padding may be left out.
                let mut parts = answer.expose().split(|octet| *octet == b'=');
                let whole = Zeroizing::new(parts.next().unwrap_or_default().to_ascii_lowercase());
                memchr::memmem::find(&text, &whole).is_some()
            });
        // A quoted string has a backslash where the secret has a quote or a backslash; the stretches
        // between those are found as they are.
        let mut between = secret.expose().split(|octet| matches!(octet, b'"' | b'\\'));
        in_base64
            || whole_in_base64
            || repeats(secret.expose())
            || between.any(|part| part.len() >= 3 && repeats(part))
    }

    /// The client response, in base64, by which we pass this on to `host`:`port`. LOGIN has none.
    pub fn response(&self, mechanism: Mechanism, host: &str, port: u16) -> Option<Secret> {
        let (Proof::Password(secret) | Proof::BearerToken(secret)) = &self.proof;
        let length = 2 * self.login.len() + secret.expose().len() + host.len() + 128;
        let mut message = Zeroizing::new(Vec::with_capacity(length));
        match mechanism {
            Mechanism::Plain => {
                message.extend_from_slice(self.authorize_as.as_deref().unwrap_or_default());
                message.push(0);
                message.extend_from_slice(&self.login);
                message.push(0);
                message.extend_from_slice(secret.expose());
            }
            Mechanism::Xoauth2 => {
                message.extend_from_slice(b"user=");
                message.extend_from_slice(&self.login);
                message.extend_from_slice(b"\x01auth=Bearer ");
                message.extend_from_slice(secret.expose());
                message.extend_from_slice(b"\x01\x01");
            }
            Mechanism::OauthBearer => {
                message.extend_from_slice(b"n,a=");
                message.extend_from_slice(&saslname(&self.login));
                message.extend_from_slice(format!(",\x01host={host}\x01port={port}").as_bytes());
                message.extend_from_slice(b"\x01auth=Bearer ");
                message.extend_from_slice(secret.expose());
                message.extend_from_slice(b"\x01\x01");
            }
            Mechanism::Login => return None,
        }
        Some(encode(&message))
    }
}

/// `None` for what is UTF-8 already. Room for all of it is there from the start, so that no copy of a
/// secret stays behind where a longer one was made.
fn utf8_of_latin1(text: &[u8]) -> Option<Vec<u8>> {
    str::from_utf8(text).err()?;
    let mut utf8 = Vec::with_capacity(2 * text.len());
    let mut spelt = [0; 2];
    for octet in text {
        utf8.extend_from_slice(char::from(*octet).encode_utf8(&mut spelt).as_bytes());
    }
    Some(utf8)
}

/// The base64 of a SASL message.
pub fn encode(message: &[u8]) -> Secret {
    Secret::new(STANDARD.encode(message).into_bytes())
}

/// A SASL message out of its base64: padded, canonical, nothing around it (RFC 4648 §3.5).
///
/// # Errors
/// When it is anything else.
pub fn decode(base64: &[u8]) -> Result<Secret, Malformed> {
    STANDARD
        .decode(base64)
        .map(Secret::new)
        .map_err(|_| Malformed)
}

/// `message = [authzid] UTF8NUL authcid UTF8NUL passwd`
fn plain(message: &[u8]) -> Result<Credential, Malformed> {
    let mut fields = message.split(|octet| *octet == 0);
    let (Some(authzid), Some(login), Some(password), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed);
    };
    let password = Proof::Password(Secret::new(password.to_vec()));
    Credential::new(login, Some(authzid), password)
}

/// `user=… ^A auth=Bearer … ^A ^A`
fn xoauth2(message: &[u8]) -> Result<Credential, Malformed> {
    let fields = message.strip_suffix(b"\x01\x01").ok_or(Malformed)?;
    let mut login = None;
    let mut token = None;
    for field in fields.split(|octet| *octet == 1) {
        if let Some(value) = field.strip_prefix(b"user=") {
            login = Some(value);
        } else if let Some(value) = field.strip_prefix(b"auth=") {
            token = Some(bearer(value)?);
        }
    }
    let (Some(login), Some(token)) = (login, token) else {
        return Err(Malformed);
    };
    Credential::new(login, None, token)
}

/// `client-resp = (gs2-header kvsep *kvpair kvsep)`, `gs2-header = "n," ["a=" saslname] ","`
fn oauth_bearer(message: &[u8]) -> Result<Credential, Malformed> {
    let message = message.strip_prefix(b"n,a=").ok_or(Malformed)?;
    let comma = memchr::memchr(b',', message).ok_or(Malformed)?;
    let login = unescape_saslname(&message[..comma])?;
    let pairs = message[comma + 1..]
        .strip_prefix(b"\x01")
        .and_then(|pairs| pairs.strip_suffix(b"\x01\x01"))
        .ok_or(Malformed)?;
    let authorization = pairs
        .split(|octet| *octet == 1)
        .find_map(|pair| pair.strip_prefix(b"auth="))
        .ok_or(Malformed)?;
    Credential::new(&login, None, bearer(authorization)?)
}

/// `"Bearer" 1*SP b64token` (RFC 6750 §2.1)
fn bearer(value: &[u8]) -> Result<Proof, Malformed> {
    let scheme = value.get(..7).ok_or(Malformed)?;
    let token = value[7..].trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"Bearer ")
        || token.is_empty()
        || !token.iter().all(u8::is_ascii_graphic)
    {
        return Err(Malformed);
    }
    Ok(Proof::BearerToken(Secret::new(token.to_vec())))
}

/// RFC 5801 §4: `,` and `=` are escaped.
fn saslname(login: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(login.len());
    for octet in login {
        match octet {
            b',' => escaped.extend_from_slice(b"=2C"),
            b'=' => escaped.extend_from_slice(b"=3D"),
            _ => escaped.push(*octet),
        }
    }
    escaped
}

fn unescape_saslname(escaped: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut login = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((octet, after)) = rest.split_first() {
        rest = after;
        match octet {
            b'=' => {
                let (code, after) = after.split_at_checked(2).ok_or(Malformed)?;
                rest = after;
                login.push(match code {
                    b"2C" => b',',
                    b"3D" => b'=',
                    _ => return Err(Malformed),
                });
            }
            _ => login.push(*octet),
        }
    }
    Ok(login)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(mechanism: Mechanism, message: &[u8]) -> Result<Credential, Malformed> {
        Credential::from_response(mechanism, &Secret::new(message.to_vec()))
    }

    fn password(text: &[u8]) -> Proof {
        Proof::Password(Secret::new(text.to_vec()))
    }

    #[test]
    fn plain_keeps_every_octet_and_refuses_what_is_not_three_fields() {
        let joe = parse(Mechanism::Plain, b"\0joe\0 p\xfcw ").expect("sound");
        assert_eq!((joe.login(), joe.authorize_as()), (&b"joe"[..], None));
        assert_eq!(joe.proof(), &password(b" p\xfcw "));
        let other = parse(Mechanism::Plain, b"ann\0joe\0x").expect("sound");
        assert_eq!(other.authorize_as(), Some(&b"ann"[..]));
        assert_eq!(
            parse(Mechanism::Plain, b"joe\0joe\0x").map(|c| c.authorize_as),
            Ok(None)
        );
        for broken in [
            &b""[..],
            b"joe",
            b"\0joe",
            b"\0\0\0",
            b"\0joe\0x\0",
            b"\0\0x",
            b"\0joe\0",
            b"\0joe\0x\r\n",
            b"\0j\noe\0x",
            b"a\rb\0joe\0x",
        ] {
            assert_eq!(
                parse(Mechanism::Plain, broken),
                Err(Malformed),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn what_is_not_utf8_is_latin1_string_by_string() {
        for (typed, meant) in [
            (&b"\0jos\xe9\0p\xfc\xff"[..], "\0josé\0püÿ".as_bytes()),
            (b"\0joe\0p\xfc", "\0joe\0pü".as_bytes()),
            (b"\0jos\xe9\0p\xc3\xbc", "\0josé\0pü".as_bytes()),
            (b"\xe4nn\0joe\0x", "änn\0joe\0x".as_bytes()),
            (b"jos\xe9\0jos\xc3\xa9\0x", "\0josé\0x".as_bytes()),
            (
                b"\0joe\0\x80\x85\xa0",
                "\0joe\0\u{80}\u{85}\u{a0}".as_bytes(),
            ),
            (b"\0joe\0x", b"\0joe\0x"),
        ] {
            let read = parse(Mechanism::Plain, typed).map(Credential::read_as_latin1);
            assert_eq!(read, parse(Mechanism::Plain, meant), "{typed:?}");
        }
    }

    #[test]
    fn at_signs_are_put_where_they_are_told_to_be() {
        let percent = |name: &[u8]| memchr::memchr(b'%', name);
        for (typed, meant) in [
            (
                &b"\0joe%example.org\0a%b"[..],
                &b"\0joe@example.org\0a%b"[..],
            ),
            (b"ann%x\0joe%y\0x", b"ann@x\0joe@y\0x"),
            (b"joe%x\0joe@x\0x", b"\0joe@x\0x"),
            (b"\0joe\0x", b"\0joe\0x"),
        ] {
            let read = parse(Mechanism::Plain, typed).map(|typed| typed.with_at_sign(percent));
            assert_eq!(read, parse(Mechanism::Plain, meant), "{typed:?}");
        }
        let nowhere = parse(Mechanism::Plain, b"\0joe\0x").expect("sound");
        assert_eq!(nowhere.clone().with_at_sign(|_| Some(9)), nowhere);
    }

    #[test]
    fn a_fingerprint_is_of_all_of_a_credential() {
        let keys = RandomState::new();
        let of = |mechanism, message| parse(mechanism, message).expect("sound").fingerprint(&keys);
        let known = of(Mechanism::Plain, b"\0joe\0x");
        assert_eq!(of(Mechanism::Plain, b"joe\0joe\0x"), known);
        for other in [&b"\0joe\0y"[..], b"\0jo\0ex", b"ann\0joe\0x", b"\0ann\0x"] {
            assert_ne!(of(Mechanism::Plain, other), known, "{other:?}");
        }
        let token = of(Mechanism::Xoauth2, b"user=joe\x01auth=Bearer x\x01\x01");
        assert_ne!(token, known);
    }

    #[test]
    fn tokens_in_both_wrappings() {
        let xoauth2 = b"user=joe@example.org\x01auth=Bearer ya29.x\x01\x01";
        let oauth_bearer =
            b"n,a=joe@example.org,\x01host=h\x01port=993\x01auth=Bearer ya29.x\x01\x01";
        let expected = Proof::BearerToken(Secret::new(b"ya29.x".to_vec()));
        for (mechanism, message) in [
            (Mechanism::Xoauth2, &xoauth2[..]),
            (Mechanism::OauthBearer, &oauth_bearer[..]),
        ] {
            let credential = parse(mechanism, message).expect("sound");
            assert_eq!(
                (credential.login(), credential.proof()),
                (&b"joe@example.org"[..], &expected)
            );
            let again = credential
                .response(mechanism, "h", 993)
                .expect("a response");
            assert_eq!(decode(again.expose()).expect("base64").expose(), message);
        }
        for broken in [
            &b""[..],
            b"user=joe\x01\x01",
            b"user=joe\x01auth=Bearer \x01\x01",
            b"user=\x01auth=Bearer x\x01\x01",
            b"user=joe\x01auth=Bearer x",
            b"user=joe\x01auth=Basic x\x01\x01",
            b"user=joe\x01auth=Bearer x\r\ny\x01\x01",
        ] {
            assert_eq!(
                parse(Mechanism::Xoauth2, broken),
                Err(Malformed),
                "{broken:?}"
            );
        }
        for broken in [
            &b"n,,\x01auth=Bearer x\x01\x01"[..],
            b"y,a=joe,\x01auth=Bearer x\x01\x01",
            b"n,a=j=4F,\x01auth=Bearer x\x01\x01",
            b"n,a=joe\x01auth=Bearer x\x01\x01",
            // As XOAUTH2 this would name somebody else.
            b"n,a=joe\x01user=ann,\x01auth=Bearer x\x01\x01",
        ] {
            assert_eq!(
                parse(Mechanism::OauthBearer, broken),
                Err(Malformed),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn a_login_with_commas_survives_oauthbearer() {
        let message = b"n,a=a=2Cb=3Dc,\x01auth=Bearer x\x01\x01";
        let credential = parse(Mechanism::OauthBearer, message).expect("sound");
        assert_eq!(credential.login(), b"a,b=c");
        let again = credential
            .response(Mechanism::OauthBearer, "h", 1)
            .expect("a response");
        let again = decode(again.expose()).expect("base64");
        assert_eq!(
            parse(Mechanism::OauthBearer, again.expose()),
            Ok(credential)
        );
    }

    #[test]
    fn echoes_are_recognized_however_they_are_spelt() {
        let response = |mechanism, credential: &Credential| {
            credential
                .response(mechanism, "imap.example.org", 993)
                .expect("a response")
                .expose()
                .to_vec()
        };
        let password = Credential::password(b"joe", Secret::new(b"a\"battery staple".to_vec()))
            .expect("sound");
        let token = parse(
            Mechanism::Xoauth2,
            b"user=joe\x01auth=Bearer ya29.a0AfB_byC-1234567890\x01\x01",
        )
        .expect("sound");
        let short = Credential::password(b"joe", Secret::new(b"pw".to_vec())).expect("sound");
        for (credential, text) in [
            (&short, encode(b"pw").expose().to_vec()),
            (&short, b"334 who are you, cHc?".to_vec()),
            (&short, response(Mechanism::Plain, &short)),
            (
                &password,
                b"BAD in: LOGIN joe \"a\\\"battery staple\"".to_vec(),
            ),
            (&password, b"no such password: A\"BATTERY".to_vec()),
            (&password, response(Mechanism::Plain, &password)),
            (&token, b"bad token a0AfB_byC-12".to_vec()),
            (&token, response(Mechanism::Xoauth2, &token)),
            (&token, response(Mechanism::OauthBearer, &token)),
        ] {
            assert!(credential.is_echoed_in(&text), "{}", text.escape_ascii());
        }
        for text in [
            &b""[..],
            b"Authentication failed.",
            b"Application-specific password required",
        ] {
            assert!(!password.is_echoed_in(text) && !token.is_echoed_in(text));
        }
    }

    #[test]
    fn echoes_of_a_stretch_are_found_in_a_long_text() {
        let octets = |seed: usize, count: usize| -> Vec<u8> {
            (0..count)
                .map(|at| b'a' + (seed + at * at * 7 + at / 26).wrapping_mul(31) as u8 % 26)
                .collect()
        };
        let secret = octets(1, 8000);
        let password = Credential::password(b"joe", Secret::new(secret.clone())).expect("sound");
        let stretch = &secret[4000..4000 + ECHO_OCTETS_MIN];
        let around = vec![b'-'; 5000];
        let text = [&around[..], stretch, &around].concat();
        assert!(password.is_echoed_in(&text));
        let text = [&around[..], &stretch[1..], &around].concat();
        assert!(!password.is_echoed_in(&text), "too short");
    }

    #[test]
    fn base64_is_taken_strictly() {
        assert_eq!(
            decode(b"AGpvZQBhIm4=").expect("sound").expose(),
            b"\0joe\0a\"n"
        );
        for broken in [
            &b"AGpvZQBhIm4"[..],
            b"AGpvZQBhIm4= ",
            b"AGpv\tZQ==",
            b"AGpvZQBhIm5=",
            b"?",
            b"=",
        ] {
            assert_eq!(decode(broken), Err(Malformed), "{broken:?}");
        }
    }
}
