//! Memory of two that are connected and say nothing.

use std::thread;
use std::time::Duration;

use crate::running::{PROGRAM, Running};
use crate::scene::Scene;

pub(crate) fn measure() {
    let scene = Scene::new();
    // Input that never comes and never ends.
    let (quiet, _keep) = nix::unistd::pipe().unwrap();
    let quiet = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&quiet));
    let (mut listen, code) = scene.listen(&quiet);
    let arguments = ["connect", "--json", "--ephemeral", &code];
    let mut connect = Running::start(&scene.other, PROGRAM, &arguments, &quiet, Some("/dev/null"));
    listen.event("path");
    connect.event("path");
    thread::sleep(Duration::from_secs(1));
    let [listen, connect, broker] =
        [&listen, &connect, &scene.broker].map(|process| process.memory("VmRSS").unwrap() as f64 / 1e6);
    println!("\nconnected and idle: listen {listen:.1} MB, connect {connect:.1} MB, broker {broker:.1} MB");
}
