//! Gives what libFuzzer makes up to the target that `TCPUNCH_FUZZ_TARGET` names.
#![no_main]

use std::sync::OnceLock;

use tcpunch_fuzz::{Target, target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("TCPUNCH_FUZZ_TARGET").unwrap_or_default();
        let named = target(&name).unwrap_or_else(|| panic!("TCPUNCH_FUZZ_TARGET={name:?} is no target"));
        TARGET.get_or_init(|| named);
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(bytes);
        }
    }
);
