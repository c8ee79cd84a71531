//! Any text is a configuration that survives being written and read, or is
//! refused with reasons that lie within it.

pub use director::config::{Config, Edge, Prefix, Problem, TunnelSources};
use director::config::{ConfigErrors, Loaded, parse};

use self::{within::within, written::written};

#[path = "../../director/src/config/tests/within.rs"]
mod within;

#[path = "../../director/src/config/tests/written.rs"]
mod written;

pub fn check(bytes: &[u8]) {
    // What is no UTF-8 is refused before.
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // They lead to other files, of which there are none that stay the same.
    if ["deny_file", "seal_key_file", "body_file"]
        .iter()
        .any(|key| text.contains(key))
    {
        return;
    }
    match parse(text, "director.toml") {
        Ok(loaded) => survives(text, &loaded),
        Err(ConfigErrors::Unreadable { .. }) => panic!("no file was read"),
        Err(ConfigErrors::Invalid { problems, .. }) => {
            assert!(!problems.is_empty(), "refused without a reason");
            within(text, &problems);
        }
    }
}

fn survives(text: &str, loaded: &Loaded) {
    within(text, &loaded.warnings);
    let text = written(&loaded.config);
    match parse(&text, "director.toml") {
        Ok(again) => {
            assert_eq!(again.config, loaded.config, "{text}");
            assert_eq!(written(&again.config), text);
        }
        Err(errors) => panic!("what was written is refused:\n{errors}\n{text}"),
    }
}
