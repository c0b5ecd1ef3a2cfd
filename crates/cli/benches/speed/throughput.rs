//! Bytes a second through both NATs, seconds of processor a GB, and memory meanwhile.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use natlab::kernel::Node;

use crate::running::{PROGRAM, Running, cpu_of_children};
use crate::scene::Scene;
use crate::subjects;
use crate::{Extent, median};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    PlainMemory,
    LibraryMemory,
    PlainPipe,
    Pipe,
    Tls,
}

impl Way {
    const ALL: [Self; 5] = [Self::PlainMemory, Self::LibraryMemory, Self::PlainPipe, Self::Pipe, Self::Tls];

    fn words(self) -> &'static str {
        match self {
            Self::PlainMemory => "plain TCP, memory to memory",
            Self::LibraryMemory => "tcpunch library, memory to memory",
            Self::PlainPipe => "plain TCP, file to /dev/null",
            Self::Pipe => "tcpunch listen < file, connect > /dev/null",
            Self::Tls => "openssl TLS 1.3, file to /dev/null",
        }
    }

    fn baseline(self) -> Self {
        match self {
            Self::PlainMemory | Self::LibraryMemory => Self::PlainMemory,
            Self::PlainPipe | Self::Pipe | Self::Tls => Self::PlainPipe,
        }
    }
}

struct Cost {
    mb_a_second: f64,
    cpu_a_gb: f64,
    /// The most that either side had.
    memory: u64,
}

pub(crate) fn measure(extent: &Extent) {
    let scene = Scene::new();
    scene.one_gateway.forward_port(subjects::PORT, &scene.one).unwrap();
    let directory = tempfile::Builder::new().tempdir_in(memory_directory()).unwrap();
    let file = directory.path().join("payload");
    let mut out = std::fs::File::create(&file).unwrap();
    let block: Vec<u8> = (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for _ in 0..extent.bytes >> 20 {
        out.write_all(&block).unwrap();
    }
    drop(out);
    let file = file.to_str().unwrap();
    let tls = Certificate::make(directory.path());
    let mut costs: Vec<(Way, Vec<Cost>)> = Way::ALL.map(|way| (way, Vec::new())).into();
    for _ in 0..extent.rounds {
        for (way, costs) in &mut costs {
            match way {
                Way::Tls if tls.is_none() => {}
                way => costs.push(run(*way, &scene, extent.bytes, file, tls.as_ref())),
            }
        }
    }
    println!(
        "\n{} transfers of {} MiB each, through two kernel NATs, both sides and both NATs on {} processors; medians",
        extent.rounds,
        extent.bytes >> 20,
        thread::available_parallelism().unwrap()
    );
    println!("{:<44} {:>8} {:>8} {:>9} {:>10}", "", "MB/s", "ratio", "CPU s/GB", "most MB");
    let speed = |way: Way| {
        let (_, costs) = costs.iter().find(|(other, _)| *other == way).unwrap();
        (!costs.is_empty()).then(|| median(costs.iter().map(|cost| cost.mb_a_second).collect()))
    };
    for (way, costs) in &costs {
        let (Some(own), Some(baseline)) = (speed(*way), speed(way.baseline())) else {
            println!("{:<44} not measured: no openssl here", way.words());
            continue;
        };
        println!(
            "{:<44} {own:>8.0} {:>8.2} {:>9.2} {:>10.1}",
            way.words(),
            own / baseline,
            median(costs.iter().map(|cost| cost.cpu_a_gb).collect()),
            median(costs.iter().map(|cost| cost.memory as f64 / 1e6).collect()),
        );
    }
    let broker = scene.broker.memory("VmHWM").unwrap();
    println!("broker, most memory: {:.1} MB", broker as f64 / 1e6);
}

fn run(way: Way, scene: &Scene, bytes: u64, file: &str, tls: Option<&Certificate>) -> Cost {
    let cpu_before = cpu_of_children();
    let broker = scene.broker_address();
    let target = format!("{}:{}", scene.one_gateway.ipv4(), subjects::PORT);
    let count = bytes.to_string();
    let (mut sender, mut receiver) = match way {
        Way::PlainMemory => (
            waiting(&scene.one, &[subjects::PLAIN_SEND, &count], "/dev/null"),
            own(&scene.other, &[subjects::PLAIN_RECEIVE, &target], "/dev/null"),
        ),
        Way::PlainPipe => (
            waiting(&scene.one, &[subjects::PLAIN_CAT_SEND], file),
            own(&scene.other, &[subjects::PLAIN_CAT_RECEIVE, &target], "/dev/null"),
        ),
        Way::LibraryMemory => {
            let mut sender = own(&scene.one, &[subjects::LIBRARY_SEND, &broker, &count], "/dev/null");
            let code = sender.event("code")["code"].as_str().unwrap().to_owned();
            (sender, own(&scene.other, &[subjects::LIBRARY_RECEIVE, &broker, &code], "/dev/null"))
        }
        Way::Pipe => {
            let (sender, code) = scene.listen(file);
            let arguments = ["connect", "--json", "--ephemeral", "--broker", &broker, &code];
            (sender, Running::start(&scene.other, PROGRAM, &arguments, "/dev/null", Some("/dev/null")))
        }
        Way::Tls => return tls.unwrap().transfer(scene, &target, bytes, file, cpu_before),
    };
    let began = receiver.event_at("path").0;
    finish(&mut sender, &mut receiver, began, bytes, cpu_before)
}

fn own(node: &Node, arguments: &[&str], input: &str) -> Running {
    let program = std::env::current_exe().unwrap();
    Running::start(node, program.to_str().unwrap(), arguments, input, Some("/dev/null"))
}

fn waiting(node: &Node, arguments: &[&str], input: &str) -> Running {
    let mut running = own(node, arguments, input);
    running.event("ready");
    running
}

fn finish(sender: &mut Running, receiver: &mut Running, began: Instant, bytes: u64, cpu_before: f64) -> Cost {
    let mut memory = 0;
    while !receiver.has_ended() {
        memory = memory.max(sender.memory("VmHWM").unwrap_or(0)).max(receiver.memory("VmHWM").unwrap_or(0));
        thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    receiver.ends();
    sender.ends();
    Cost {
        mb_a_second: bytes as f64 / 1e6 / took,
        cpu_a_gb: (cpu_of_children() - cpu_before) / (bytes as f64 / 1e9),
        memory,
    }
}

/// A file system in memory, so that no disk is measured.
fn memory_directory() -> &'static str {
    if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }
}

/// For the baseline with openssl.
struct Certificate {
    key: String,
    certificate: String,
}

impl Certificate {
    fn make(directory: &std::path::Path) -> Option<Self> {
        let [key, certificate] =
            ["key.pem", "certificate.pem"].map(|name| directory.join(name).to_str().unwrap().to_owned());
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=bench", "-keyout", &key, "-out", &certificate])
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        made.is_ok_and(|status| status.success()).then_some(Self { key, certificate })
    }

    fn transfer(&self, scene: &Scene, target: &str, bytes: u64, file: &str, cpu_before: f64) -> Cost {
        let port = subjects::PORT.to_string();
        let arguments = [
            "s_server",
            "-quiet",
            "-tls1_3",
            "-naccept",
            "1",
            "-accept",
            &port,
            "-key",
            &self.key,
            "-cert",
            &self.certificate,
        ];
        // It ends with its input.
        let (quiet, _keep) = nix::unistd::pipe().unwrap();
        let quiet = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&quiet));
        let mut receiver = Running::start(&scene.one, "openssl", &arguments, &quiet, Some("/dev/null"));
        // It does not say when it listens.
        thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        let arguments = [
            "s_client",
            "-quiet",
            "-no_ign_eof",
            "-tls1_3",
            "-ciphersuites",
            "TLS_AES_256_GCM_SHA384",
            "-connect",
            target,
        ];
        let mut sender = Running::start(&scene.other, "openssl", &arguments, file, Some("/dev/null"));
        finish(&mut sender, &mut receiver, began, bytes, cpu_before)
    }
}
