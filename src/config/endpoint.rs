//! The URL of an upstream, as an [`Endpoint`].

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::ServerName;
use url::{Host, Url};

use super::{Endpoint, EndpointSecurity, Service};

impl Endpoint {
    /// Whether it can only be on this machine, so that clear text is no risk.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }
}

/// As a log has it.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imap => "IMAP",
            Self::Submission => "submission",
        })
    }
}

/// As in the config file, with the port.
impl Endpoint {
    /// `host:port`
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.service.scheme(self.security);
        write!(f, "{scheme}://{}", self.address())
    }
}

impl Service {
    fn scheme(self, security: EndpointSecurity) -> &'static str {
        match (self, security) {
            (Self::Imap, EndpointSecurity::Implicit) => "imaps",
            (Self::Imap, EndpointSecurity::StartTls) => "imap+starttls",
            (Self::Imap, EndpointSecurity::Clear) => "imap",
            (Self::Submission, EndpointSecurity::Implicit) => "smtps",
            (Self::Submission, EndpointSecurity::StartTls) => "smtp+starttls",
            (Self::Submission, EndpointSecurity::Clear) => "smtp",
        }
    }

    fn default_port(self, security: EndpointSecurity) -> u16 {
        match (self, security) {
            (Self::Imap, EndpointSecurity::Implicit) => 993,
            (Self::Imap, EndpointSecurity::StartTls | EndpointSecurity::Clear) => 143,
            (Self::Submission, EndpointSecurity::Implicit) => 465,
            (Self::Submission, EndpointSecurity::StartTls | EndpointSecurity::Clear) => 587,
        }
    }

    fn example_host(self) -> &'static str {
        match self {
            Self::Imap => "imap.example.com",
            Self::Submission => "smtp.example.com",
        }
    }
}

/// Reads the URL of a service, as in `imaps://imap.example.com`; the error says what would be right.
///
/// Where there is an `@` the text is not repeated: it could contain a password.
pub(super) fn endpoint(text: &str, service: Service) -> Result<Endpoint, String> {
    use EndpointSecurity::{Clear, Implicit, StartTls};
    let quoted = match text.contains('@') {
        true => "the URL".to_owned(),
        false => format!("{text:?}"),
    };
    let Some((scheme, after)) = text.split_once("://") else {
        let host = match text.rsplit('@').next() {
            None | Some("") => service.example_host(),
            Some(host) => host,
        };
        let scheme = service.scheme(Implicit);
        return Err(format!(
            "{quoted} is not a URL; write \"{scheme}://{host}\""
        ));
    };
    let is_meant =
        |security: &EndpointSecurity| scheme.eq_ignore_ascii_case(service.scheme(*security));
    let Some(security) = [Implicit, StartTls, Clear].into_iter().find(is_meant) else {
        let of = |security| (service.scheme(security), service.default_port(security));
        let ((implicit, port), (start_tls, other), (clear, _)) =
            (of(Implicit), of(StartTls), of(Clear));
        return Err(format!(
            "{quoted} has none of the schemes {implicit}:// (TLS, port {port}), \
             {start_tls}:// ({other}) and {clear}:// (clear text, {other})"
        ));
    };
    let port = service.default_port(security);
    let url = Url::parse(text).map_err(|reason| {
        format!("{quoted} is not a URL ({reason}); write \"{scheme}://HOST:PORT\"")
    })?;
    if after.contains('@') {
        return Err(format!(
            "{quoted} names a user; write \"{scheme}://HOST\", logins and passwords come from the client"
        ));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        let where_else = match service {
            Service::Imap => ", a folder belongs into [maildrop] folder",
            Service::Submission => "",
        };
        return Err(format!(
            "{quoted} has more than a host and a port; write the rest away{where_else}"
        ));
    }
    let host = host(&url).map_err(|remedy| format!("{quoted} names no valid host; {remedy}"))?;
    match url.port().unwrap_or(port) {
        0 => Err(format!(
            "{quoted} has port 0; write a port from 1 on, or none for {port}"
        )),
        port => Ok(Endpoint {
            service,
            host,
            port,
            security,
        }),
    }
}

/// A DNS name in its ASCII form and lower case, or an address without brackets.
fn host(url: &Url) -> Result<String, String> {
    match url.host() {
        None => Err("write one after the two slashes".to_owned()),
        Some(Host::Ipv4(address)) => Ok(address.to_string()),
        Some(Host::Ipv6(address)) => Ok(address.to_string()),
        // A host after a scheme that browsers do not know is neither checked nor converted.
        Some(Host::Domain(text)) => match ServerName::try_from(text) {
            Ok(_) => Ok(text.to_ascii_lowercase()),
            Err(_) => Err(match Host::parse(text) {
                Ok(Host::Domain(ascii)) if ascii != text => format!("write {ascii:?} for it"),
                _ => "write a DNS name, an IPv4 address or an IPv6 address in brackets".to_owned(),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_endpoints() {
        use EndpointSecurity::{Clear, Implicit, StartTls};
        for (text, host, port, security) in [
            (
                "imaps://imap.example.com",
                "imap.example.com",
                993,
                Implicit,
            ),
            (
                "imaps://imap.example.com/",
                "imap.example.com",
                993,
                Implicit,
            ),
            (
                "IMAPS://IMAP.Example.COM:1993",
                "imap.example.com",
                1993,
                Implicit,
            ),
            ("imap+starttls://10.0.0.1", "10.0.0.1", 143, StartTls),
            (
                "imap+starttls://[2001:db8::1]:1143",
                "2001:db8::1",
                1143,
                StartTls,
            ),
            ("imap://localhost", "localhost", 143, Clear),
            ("imap://mail_1.internal", "mail_1.internal", 143, Clear),
            (
                "smtps://smtp.example.com",
                "smtp.example.com",
                465,
                Implicit,
            ),
            ("smtp+starttls://a.example:25", "a.example", 25, StartTls),
            ("smtp://127.0.0.1", "127.0.0.1", 587, Clear),
        ] {
            let service = match text.to_lowercase().starts_with("smtp") {
                true => Service::Submission,
                false => Service::Imap,
            };
            let expected = Endpoint {
                service,
                host: host.to_owned(),
                port,
                security,
            };
            assert_eq!(endpoint(text, service), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refusals_name_the_remedy() {
        for (text, expected) in [
            (
                "imap.example.com",
                r#""imap.example.com" is not a URL; write "imaps://imap.example.com""#,
            ),
            (
                "imap.example.com:993",
                r#""imap.example.com:993" is not a URL; write "imaps://imap.example.com:993""#,
            ),
            ("", r#""" is not a URL; write "imaps://imap.example.com""#),
            (
                "https://example.com",
                r#""https://example.com" has none of the schemes imaps:// (TLS, port 993), imap+starttls:// (143) and imap:// (clear text, 143)"#,
            ),
            (
                "imaps://me:secret@example.com",
                r#"the URL names a user; write "imaps://HOST", logins and passwords come from the client"#,
            ),
            (
                "me:secret@example.com",
                r#"the URL is not a URL; write "imaps://example.com""#,
            ),
            (
                "imaps://example.com/INBOX",
                r#""imaps://example.com/INBOX" has more than a host and a port; write the rest away, a folder belongs into [maildrop] folder"#,
            ),
            (
                "imaps://example.com:99999",
                r#""imaps://example.com:99999" is not a URL (invalid port number); write "imaps://HOST:PORT""#,
            ),
            (
                "imaps://example.com:0",
                r#""imaps://example.com:0" has port 0; write a port from 1 on, or none for 993"#,
            ),
            (
                "imaps://",
                r#""imaps://" names no valid host; write one after the two slashes"#,
            ),
            (
                "imaps://bücher.example",
                r#""imaps://bücher.example" names no valid host; write "xn--bcher-kva.example" for it"#,
            ),
            (
                "imaps://a..b",
                r#""imaps://a..b" names no valid host; write a DNS name, an IPv4 address or an IPv6 address in brackets"#,
            ),
        ] {
            let found = endpoint(text, Service::Imap);
            assert_eq!(found, Err(expected.to_owned()), "{text}");
        }
        assert_eq!(
            endpoint("imaps://a.example", Service::Submission),
            Err(
                "\"imaps://a.example\" has none of the schemes smtps:// (TLS, port 465), \
                 smtp+starttls:// (587) and smtp:// (clear text, 587)"
                    .to_owned()
            )
        );
    }

    #[test]
    fn loopback_is_certain() {
        for (text, expected) in [
            ("imap://localhost", true),
            ("imap://127.1.2.3", true),
            ("imap://[::1]", true),
            ("imap://[::ffff:127.0.0.1]", true),
            ("imap://localhost.example.com", false),
            ("imap://10.0.0.1", false),
        ] {
            assert_eq!(
                endpoint(text, Service::Imap).map(|endpoint| endpoint.is_loopback()),
                Ok(expected),
                "{text}"
            );
        }
    }
}
