//! The examples as programs.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The example of this name, built by cargo as its source is now.
///
/// Cargo builds examples before a whole run of tests, but not before a single test target. For the whole workspace:
/// features, and so what is built already, are the same as in `cargo test --workspace`.
pub(crate) fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--workspace", "--examples", "--message-format=json"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8(output.stdout).expect("JSON of cargo");
        let messages = messages.lines().map(|line| serde_json::from_str(line).expect("JSON of cargo"));
        messages
            .filter_map(|message: serde_json::Value| Some(PathBuf::from(message["executable"].as_str()?)))
            .collect()
    });
    let found = built.iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
    found.unwrap_or_else(|| panic!("no example '{name}' among {built:?}")).clone()
}
