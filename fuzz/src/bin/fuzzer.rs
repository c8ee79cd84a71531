//! The fuzzer, of the target that the environment names; made and started by
//! `cargo xtask fuzz`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&director_fuzz::Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("DIRECTOR_FUZZ_TARGET").unwrap_or_default();
        let target = director_fuzz::target(&name);
        TARGET.get_or_init(|| target.expect("DIRECTOR_FUZZ_TARGET names no target"));
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.check)(bytes);
        }
    }
);
