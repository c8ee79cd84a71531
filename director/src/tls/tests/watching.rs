//! Changes of files are seen, however they are made.

use std::os::unix::fs::symlink;

use super::*;
use crate::tls::{Watch, files};

#[test]
fn a_look_sees_each_change_once() {
    let authority = Authority::new();
    let own = authority.issue("a", &["example.org"]);
    let ca = authority.path("ca.pem");
    let mut listener = tls(vec![own.clone()]);
    listener.client_auth = client_auth(&ca, true);
    let mut watch = Watch::new(files(&listener));
    assert!(!watch.changed());
    // Written in place, with the same length.
    let mut contents = fs::read(&own.certificate).unwrap();
    contents.reverse();
    fs::write(&own.certificate, contents).unwrap();
    assert!(watch.changed());
    assert!(!watch.changed());
    // Replaced, as certbot and cert-manager do.
    let new = authority.write("new", fs::read(&own.key).unwrap());
    fs::rename(new, &own.key).unwrap();
    assert!(watch.changed());
    assert!(!watch.changed());
    // One that was not there.
    authority.write("ca.pem", &authority.pem);
    assert!(watch.changed());
    fs::remove_file(&ca).unwrap();
    assert!(watch.changed());
    assert!(!watch.changed());
}

#[test]
fn a_link_that_leads_elsewhere_is_a_change() {
    let authority = Authority::new();
    authority.write("old", "x");
    authority.write("new", "x");
    let link = authority.path("link");
    symlink(authority.path("old"), &link).unwrap();
    let mut watch = Watch::new([link.clone()]);
    fs::remove_file(&link).unwrap();
    symlink(authority.path("new"), &link).unwrap();
    assert!(watch.changed());
    assert!(!watch.changed());
}
