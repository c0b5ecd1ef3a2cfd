//! From the start of the second side's process to the first byte on the direct path.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use natlab::kernel::Node;

use crate::running::{PROGRAM, Running};
use crate::scene::Scene;
use crate::subjects;
use crate::{Extent, median};

pub(crate) fn measure(extent: &Extent) {
    let scene = Scene::new();
    scene.one_gateway.forward_port(subjects::PORT, &scene.one).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"the first byte").unwrap();
    let input = file.path().to_str().unwrap().to_owned();
    let [mut punched, mut plain] = [Vec::new(), Vec::new()];
    for _ in 0..extent.starts {
        let (mut listen, code) = scene.listen(&input);
        let arguments = ["-q", "connect", "--ephemeral", &code];
        punched.push(first_byte_ms(&scene.other, PROGRAM, &arguments));
        listen.ends();

        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap();
        let mut sender =
            Running::start(&scene.one, program, &[subjects::PLAIN_CAT_SEND], &input, Some("/dev/null"));
        sender.event("ready");
        let target = format!("{}:{}", scene.one_gateway.ipv4(), subjects::PORT);
        plain.push(first_byte_ms(&scene.other, program, &[subjects::PLAIN_CAT_RECEIVE, &target]));
        sender.ends();
    }
    let (least, most) = (min(&punched), max(&punched));
    let (punched, plain) = (median(punched), median(plain));
    println!(
        "\nprocess start to first byte, no delay, {} starts, medians: connect CODE {punched:.1} ms (least {least:.1}, most {most:.1}), \
         plain TCP to a known address {plain:.1} ms",
        extent.starts
    );
}

fn first_byte_ms(node: &Node, program: &str, arguments: &[&str]) -> f64 {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(File::open("/dev/null").unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    node.run(|| {
        let began = Instant::now();
        let mut child = command.spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut byte = [0];
        output.read_exact(&mut byte).unwrap();
        let took = began.elapsed();
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
        assert!(child.wait().unwrap().success());
        took.as_secs_f64() * 1e3
    })
    .unwrap()
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
