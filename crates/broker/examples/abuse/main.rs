//! The abuse drill: floods against a broker while honest pairs are introduced. Run it as
//! `cargo xtask abuse`; what it shows is in `docs/performance.md`.
//!
//! Three processes, so that each has its own scheduling: the broker under test, the honest pairs,
//! and the floods, which are nice to the other two.
#![cfg_attr(not(unix), allow(unused))]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a drill for developers: it prints its figures, and what can't go on ends it"
)]

#[cfg(unix)]
mod drill;
#[cfg(unix)]
mod flood;
#[cfg(unix)]
mod honest;
#[cfg(unix)]
mod peer;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("descriptors");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["honest", at, seconds] => honest::run(peer::target(at), peer::seconds(seconds)),
        ["flood", kind, at, seconds, addresses] => {
            let addresses = addresses.parse().expect("a number of addresses");
            flood::run(kind.parse().expect("a flood"), peer::target(at), peer::seconds(seconds), addresses);
        }
        [broker, rest @ ..] => return drill::run(broker, rest),
        [] => {
            eprintln!("abuse PATH-OF-TCPUNCH [--quick]");
            return std::process::ExitCode::from(2);
        }
    }
    std::process::ExitCode::SUCCESS
}

#[cfg(not(unix))]
fn main() {}
