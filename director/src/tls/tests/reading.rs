//! Files that are right, wrong, and of concern.

use std::time::Duration;

use director_core::l7::UpstreamTls;
use proptest::prelude::*;

use super::*;
use crate::tls::{
    Concern, Fault, TlsProblem, check, load,
    read::{certificates_of, facts, key_of},
    upstream_material,
};

/// What a file is called, what is in it, and whether the fault found is right.
type Case<'a> = (&'a str, &'a [u8], fn(&Fault) -> bool);

/// The one problem of a listener with this certificate.
#[track_caller]
fn problem(files: CertificateFiles) -> TlsProblem {
    let mut problems = load(&tls(vec![files])).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

/// What is of concern about a certificate that is changed by `edit`.
fn concerns(edit: impl FnOnce(&mut CertificateParams)) -> Vec<Concern> {
    let authority = Authority::new();
    let files = authority.issue_as(("a", &["example.org"]), &elliptic(), edit);
    let warnings = load(&tls(vec![files])).unwrap().warnings(NOW);
    warnings
        .into_iter()
        .map(|warning| warning.concern)
        .collect()
}

/// Makes a certificate valid from and until midnights of days that are counted from
/// that of [`NOW`].
fn valid(params: &mut CertificateParams, from: i64, to: i64) {
    let midnight = rcgen::date_time_ymd(2027, 1, 15);
    for (field, days) in [(&mut params.not_before, from), (&mut params.not_after, to)] {
        let distance = Duration::from_secs(days.unsigned_abs() * 24 * 3600);
        *field = if days < 0 {
            midnight - distance
        } else {
            midnight + distance
        };
    }
}

#[test]
fn a_certificate_says_what_it_is_for_and_until_when() {
    let authority = Authority::new();
    let names = ["example.org", "*.Example.org"];
    let files = authority.issue_as(("a", &names), &elliptic(), |params| {
        valid(params, -30, 60);
    });
    let loaded = load(&tls(vec![files.clone()])).unwrap();
    let [own] = &*loaded.certificates else {
        panic!("{loaded:?}");
    };
    assert_eq!(own.names, ["example.org".into(), "*.example.org".into()]);
    let midnight = NOW - 8 * 3600;
    assert_eq!(own.not_before, midnight - 30 * 24 * 3600);
    assert_eq!(own.not_after, midnight + 60 * 24 * 3600);
    assert_eq!((&own.file, &own.key_file), (&files.certificate, &files.key));
    assert_eq!(loaded.warnings(NOW), []);
}

#[test]
fn rsa_and_a_key_beside_its_certificate_are_read() {
    let authority = Authority::new();
    let files = authority.issue_as(("rsa", &["example.org"]), &rsa(), |_| ());
    assert!(load(&tls(vec![files.clone()])).is_ok());
    // Certificate and key in one file.
    let both = ["rsa.crt", "rsa.key"].map(|name| fs::read_to_string(authority.path(name)).unwrap());
    let both = authority.write("both.pem", both.concat());
    let files = CertificateFiles {
        certificate: both.clone(),
        key: both,
    };
    assert!(load(&tls(vec![files])).is_ok());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = Authority::new();
    let mut files = authority.issue("a", &["example.org"]);
    files.key = authority.issue("b", &["example.org"]).key;
    let certificate = files.certificate.clone();
    let found = problem(files.clone());
    assert_eq!(found.file, files.key);
    assert_eq!(found.fault, Fault::Mismatch { certificate });
    // Both are named, and what mends it.
    let text = found.to_string();
    for part in ["b.key", "a.crt", "name the key"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_chain_in_the_wrong_order_is_told_as_such() {
    let authority = Authority::new();
    let mut files = authority.issue("a", &["example.org"]);
    let own = fs::read_to_string(&files.certificate).unwrap();
    files.certificate = authority.write("chain.pem", authority.pem.clone() + &own);
    let certificate = files.certificate.clone();
    let order = Fault::Order {
        certificate,
        position: 2,
    };
    assert_eq!(problem(files).fault, order);
}

#[test]
fn files_that_hold_something_else_are_told_apart() {
    let authority = Authority::new();
    let good = authority.issue("a", &["example.org"]);
    let pem = fs::read_to_string(&good.certificate).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let cut = &pem[..pem.len() - 40];
    let odd = pem.replacen("MII", "M*I", 1);
    let cases: [Case<'_>; 7] = [
        ("empty", b"", |fault| *fault == Fault::NotPem),
        ("text", b"hello\n", |fault| *fault == Fault::NotPem),
        ("der", &der, |fault| *fault == Fault::NotPem),
        ("cut", cut.as_bytes(), |fault| {
            matches!(fault, Fault::BrokenPem(_))
        }),
        ("odd", odd.as_bytes(), |fault| {
            matches!(fault, Fault::BrokenPem(_))
        }),
        ("key", &fs::read(&good.key).unwrap(), |fault| {
            *fault == Fault::NoCertificate
        }),
        (
            "unparsable",
            b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
            |fault| matches!(fault, Fault::BadCertificate { position: 1, .. }),
        ),
    ];
    for (name, contents, is_right) in cases {
        let mut files = good.clone();
        files.certificate = authority.write(name, contents);
        let found = problem(files.clone());
        assert_eq!(found.file, files.certificate);
        assert!(is_right(&found.fault), "{name}: {found}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_told_apart() {
    let authority = Authority::new();
    let good = authority.issue("a", &["example.org"]);
    let bogus = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    let locked = bogus.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let cases: [Case<'_>; 4] = [
        ("text", b"hello\n", |fault| *fault == Fault::NotPem),
        ("none", &fs::read(&good.certificate).unwrap(), |fault| {
            *fault == Fault::NoKey
        }),
        ("bogus", bogus.as_bytes(), |fault| {
            matches!(fault, Fault::UnusableKey(_))
        }),
        ("locked", locked.as_bytes(), |fault| {
            *fault == Fault::EncryptedKey
        }),
    ];
    for (name, contents, is_right) in cases {
        let mut files = good.clone();
        files.key = authority.write(name, contents);
        let found = problem(files.clone());
        assert_eq!(found.file, files.key);
        assert!(is_right(&found.fault), "{name}: {found}");
    }
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let authority = Authority::new();
    let good = authority.issue("a", &["example.org"]);
    let pipe = authority.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let huge = authority.write("huge", vec![b'x'; 1024 * 1024 + 1]);
    let missing = authority.path("missing");
    let mut all = Vec::new();
    for certificate in [pipe, authority.folder.path().into(), huge, missing] {
        let key = good.key.clone();
        all.push(CertificateFiles { certificate, key });
    }
    let faults = load(&tls(all)).unwrap_err();
    let faults: Vec<Fault> = faults.into_iter().map(|problem| problem.fault).collect();
    assert!(matches!(
        &*faults,
        [
            Fault::NotAFile,
            Fault::NotAFile,
            Fault::TooLarge { limit: 0x10_0000 },
            Fault::Unreadable(_)
        ]
    ));
}

#[test]
fn all_problems_are_told_at_once() {
    let authority = Authority::new();
    let mut listener = tls(vec![authority.issue("a", &["example.org"])]);
    listener.certificates[0].key = authority.path("missing.key");
    let key_alone = authority.issue("b", &["example.net"]).key;
    listener.client_auth = client_auth(&key_alone, true);
    let (problems, warnings) = check(&listener);
    let faults: Vec<&Fault> = problems.iter().map(|problem| &problem.fault).collect();
    assert!(matches!(
        &*faults,
        [Fault::Unreadable(_), Fault::NoCertificate]
    ));
    assert_eq!(warnings, []);
}

#[test]
fn age_is_of_concern() {
    let valid = |from, to| concerns(|params| valid(params, from, to));
    assert_eq!(valid(-90, 30), []);
    assert_eq!(valid(-90, 9), [Concern::ExpiresSoon { days: 8 }]);
    assert_eq!(valid(-90, 1), [Concern::ExpiresSoon { days: 0 }]);
    assert_eq!(valid(-90, 0), [Concern::Expired { days: 0 }]);
    assert_eq!(valid(-90, -3), [Concern::Expired { days: 3 }]);
    assert_eq!(valid(5, 90), [Concern::NotYetValid { days: 4 }]);
}

#[test]
fn an_open_key_and_a_certificate_for_nobody_are_of_concern() {
    let authority = Authority::new();
    let files = authority.issue("a", &[]);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = load(&tls(vec![files.clone()])).unwrap().warnings(NOW);
    let expected = [
        (&files.key, Concern::OpenKey { mode: 0o644 }),
        (&files.certificate, Concern::NoNames),
    ];
    let found: Vec<_> = warnings
        .iter()
        .map(|warning| (&warning.file, warning.concern.clone()))
        .collect();
    assert_eq!(found, expected);
    // One for an address is for those that name no host.
    let files = authority.issue("b", &["192.0.2.1"]);
    assert_eq!(load(&tls(vec![files])).unwrap().warnings(NOW), []);
}

#[test]
fn a_name_of_two_certificates_is_of_concern_where_one_is_never_taken() {
    let authority = Authority::new();
    let first = authority.issue("a", &["example.org", "www.example.org"]);
    let second = authority.issue("b", &["www.example.org"]);
    let other_kind = authority.issue_as(("c", &["example.org"]), &rsa(), |_| ());
    let loaded = load(&tls(vec![first.clone(), second.clone(), other_kind])).unwrap();
    let warnings = loaded.warnings(NOW);
    let [warning] = &*warnings else {
        panic!("{warnings:?}");
    };
    assert_eq!(warning.file, second.certificate);
    let name = "www.example.org".into();
    let other = first.certificate;
    assert_eq!(warning.concern, Concern::NamedTwice { name, other });
}

#[test]
fn files_of_an_upstream_are_read_whole() {
    let authority = Authority::new();
    let ca = authority.write("ca.pem", authority.pem.repeat(2));
    let own = authority.issue("edge", &["edge1.example.org"]);
    let mut upstream = UpstreamTls {
        server_name: None,
        ca: Some(ca),
        client: Some(own.clone()),
    };
    let material = upstream_material(&upstream).unwrap();
    assert_eq!(material.ca.unwrap().len(), 2);
    assert_eq!(material.client.unwrap().chain.len(), 1);
    upstream.ca = Some(own.key.clone());
    upstream.client.as_mut().unwrap().key = authority.issue("b", &[]).key;
    let problems = upstream_material(&upstream).unwrap_err();
    assert!(matches!(
        [&problems[0].fault, &problems[1].fault],
        [Fault::NoCertificate, Fault::Mismatch { .. }]
    ));
}

/// Texts that are PEM in part.
fn nearly_pem() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"-----BEGIN CERTIFICATE-----\n".to_vec()),
        Just(b"-----END CERTIFICATE-----\n".to_vec()),
        Just(b"-----BEGIN EC PRIVATE KEY-----\r\n".to_vec()),
        Just(b"-----END EC PRIVATE KEY-----\n".to_vec()),
        Just(b"-----BEGIN ".to_vec()),
        "[A-Za-z0-9+/]{0,64}={0,2}\n".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..64),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(bytes in nearly_pem()) {
        if let Ok(chain) = certificates_of(&bytes) {
            prop_assert!(!chain.is_empty());
        }
        if let Err(fault) = key_of(&bytes) {
            prop_assert!(!fault.help().is_empty());
        }
    }

    #[test]
    fn no_certificate_causes_a_panic(at in 0..10_000usize, to in any::<u8>(), cut in 0..10_000usize) {
        static GOOD: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let good = GOOD.get_or_init(|| {
            let params = CertificateParams::new(vec!["*.example.org".into()]).unwrap();
            params.self_signed(&elliptic()).unwrap().der().to_vec()
        });
        let mut bytes = good.clone();
        let length = bytes.len();
        bytes[at % length] = to;
        let _ = facts(&CertificateDer::from(bytes.clone()), 0);
        bytes.truncate(cut % length);
        prop_assert!(facts(&CertificateDer::from(bytes), 0).is_err());
    }
}
