//! Certificates: which one is shown, when they are read again, and when they are not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use crate::process::{Popgate, Setting, wait_for};
use crate::tls::{Client, handshake};

const SETTING: Setting<'_> = Setting {
    pop3: "listen_tls = [\"127.0.0.1:0\"]",
    sections: "[tls]\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"\n",
    first: "",
    prepare: None,
};

const EXPIRY: &str = "popgate_tls_certificate_expiry_timestamp_seconds{listener=\"pop3s\"}";
const RELOADED: &str = "popgate_tls_certificate_last_reload_successful";

/// A pair for `name` in `file.crt` and `file.key`, which expires with the year before this one; and the
/// certificate. Written as by who is careful: no file is ever there in part.
pub(crate) fn write_pair(folder: &Path, file: &str, name: &str, year: i32) -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    for (ending, pem) in [("key", key.serialize_pem()), ("crt", certificate.pem())] {
        let new = folder.join(format!("{file}.new"));
        fs::write(&new, pem).expect("written");
        fs::rename(&new, folder.join(format!("{file}.{ending}"))).expect("renamed");
    }
    certificate.der().to_vec()
}

/// The certificate that who asks for `name` is shown.
fn shown(popgate: &Popgate, name: &str) -> Vec<u8> {
    let client = Client {
        name,
        ..Client::default()
    };
    let connection = handshake(popgate.addresses()[1], &client).expect("a handshake");
    let chain = connection.conn.peer_certificates().expect("a certificate");
    chain[0].to_vec()
}

/// Until it is shown.
fn wait_until_shown(popgate: &Popgate, certificate: &[u8]) {
    let found = wait_for(|| (shown(popgate, "a.example") == certificate).then_some(()));
    assert!(found.is_some(), "not shown: {:#?}", popgate.log());
}

#[test]
fn changed_files_are_read_again_and_bad_ones_are_not_used() {
    let prepare = |folder: &Path| drop(write_pair(folder, "a", "a.example", 2090));
    let mut popgate = Popgate::start(&Setting {
        prepare: Some(&prepare),
        ..SETTING
    });
    popgate.wait_for_metric(EXPIRY, 3_786_912_000.0);

    let second = write_pair(popgate.folder.path(), "a", "a.example", 2091);
    wait_until_shown(&popgate, &second);
    popgate.wait_for_metric(EXPIRY, 3_818_448_000.0);
    popgate.wait_for_metric(RELOADED, 1.0);

    // A key that is another's.
    write_pair(popgate.folder.path(), "b", "b.example", 2092);
    let file = |name| popgate.folder.path().join(name);
    fs::rename(file("b.key"), file("a.key")).expect("renamed");
    popgate.wait_for_metric(RELOADED, 0.0);
    popgate.wait_for_log("certificates cannot be used; those before stay");
    assert_eq!(shown(&popgate, "a.example"), second);
    popgate.wait_for_metric(EXPIRY, 3_818_448_000.0);

    let third = write_pair(popgate.folder.path(), "a", "a.example", 2093);
    wait_until_shown(&popgate, &third);
    popgate.wait_for_metric(RELOADED, 1.0);
    popgate.signal("TERM");
    assert_eq!(popgate.wait().code(), Some(0));
}

/// As Kubernetes mounts a secret: `..data` is swapped, and the names of the files stay.
#[test]
fn a_swapped_folder_is_noticed() {
    let prepare = |folder: &Path| {
        fs::create_dir(folder.join("one")).expect("made");
        write_pair(&folder.join("one"), "a", "a.example", 2090);
        symlink("one", folder.join("..data")).expect("linked");
        for file in ["a.crt", "a.key"] {
            symlink(Path::new("..data").join(file), folder.join(file)).expect("linked");
        }
    };
    let popgate = Popgate::start(&Setting {
        prepare: Some(&prepare),
        ..SETTING
    });
    let file = |name| popgate.folder.path().join(name);
    fs::create_dir(file("two")).expect("made");
    let second = write_pair(&file("two"), "a", "a.example", 2091);
    symlink("two", file("..new")).expect("linked");
    fs::rename(file("..new"), file("..data")).expect("renamed");
    wait_until_shown(&popgate, &second);
}

#[test]
fn the_name_that_is_asked_for_chooses() {
    let prepare = |folder: &Path| {
        for (file, name) in [("a", "a.example"), ("b", "b.example"), ("c", "*.c.example")] {
            write_pair(folder, file, name, 2090);
        }
    };
    let sections = format!(
        "{}[[tls.certificates]]\ncertificate = \"b.crt\"\nprivate_key = \"b.key\"\n\
         [[tls.certificates]]\ncertificate = \"c.crt\"\nprivate_key = \"c.key\"\n",
        SETTING.sections
    );
    let popgate = Popgate::start(&Setting {
        sections: &sections,
        prepare: Some(&prepare),
        ..SETTING
    });
    let [a, b, c] = ["a.example", "b.example", "x.c.example"].map(|name| shown(&popgate, name));
    assert!(a != b && b != c && a != c);
    // Who names none of them, or nothing at all, gets the first.
    assert_eq!(shown(&popgate, "d.example"), a);
    assert_eq!(shown(&popgate, "127.0.0.1"), a);
    assert_eq!(shown(&popgate, "B.Example"), b);
}
