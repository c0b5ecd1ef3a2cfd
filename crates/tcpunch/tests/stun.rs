//! STUN over TCP with programs that are not ours, on loopback: coturn as a server, and aioice's transactions and codec (both in
//! Debian) as a client of the broker.
//!
//! Where they are not installed the tests are reported as ignored; `TCPUNCH_LAB=required` makes that a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tcpunch::Families;
use tcpunch::stun::{BadStun, StunError, ask, mapping};
use tcpunch_broker::{Server, ServerConfig};
use tcpunch_core::identity::SecretKey;
use tokio::runtime::Runtime;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A client in Python, all of whose STUN is aioice's. It prints `HOST PORT` as the server sees it and as its own kernel does.
const AIOICE: &str = r#"
import asyncio, sys
from aioice import stun

class OverTcp(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.received = transport, b""
    def send_stun(self, message, addr):
        self.transport.write(bytes(message))
    def data_received(self, data):
        self.received += data
        if len(self.received) >= 20:
            length = 20 + int.from_bytes(self.received[2:4], "big")
            if len(self.received) >= length:
                message, self.received = self.received[:length], self.received[length:]
                self.transaction.response_received(stun.parse_message(message), None)

async def main(host, port, needs):
    _, protocol = await asyncio.get_running_loop().create_connection(OverTcp, host, int(port))
    request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    if needs:
        request.attributes["PRIORITY"] = 1
    # And a checksum. aioice verifies that of the answer.
    request.add_message_integrity(b"any key")
    protocol.transaction = stun.Transaction(request, None, protocol, retransmissions=0)
    try:
        response, _ = await protocol.transaction.run()
    except stun.TransactionFailed as failed:
        print("failed", *failed.response.attributes["ERROR-CODE"])
        return
    print(*response.attributes["XOR-MAPPED-ADDRESS"], *protocol.transport.get_extra_info("sockname")[:2])

asyncio.run(main(*sys.argv[1:3], len(sys.argv) > 3))
"#;

/// Debian's own interpreter: its modules are installed for no other.
const PYTHON: &str = "/usr/bin/python3";

fn main() {
    let arguments = Arguments::from_args();
    let trials = vec![
        trial("coturn_tells_where_connections_come_from", &["turnserver", "--version"], coturn),
        trial("a_refusal_of_coturn_is_told_in_its_words", &["turnserver", "--version"], refusal),
        trial("a_client_of_others_asks_the_broker", &[PYTHON, "-c", "import aioice.stun"], aioice),
        trial(
            "a_client_of_others_is_told_what_is_not_understood",
            &[PYTHON, "-c", "import aioice.stun"],
            needy,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(name: &str, probe: &'static [&'static str], test: fn()) -> Trial {
    Trial::ignorable_test(name, move || {
        let mut command = Command::new(probe[0]);
        command.args(&probe[1..]).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        // Not its exit code: coturn's --version has one of its own.
        let missing = match command.status() {
            Ok(status) if status.success() || probe[0] != PYTHON => None,
            Ok(_) => Some("python3-aioice is not installed".to_owned()),
            Err(error) => Some(format!("{}: {error}", probe[0])),
        };
        match missing {
            None => {
                test();
                Ok(Completion::Completed)
            }
            Some(reason) if std::env::var("TCPUNCH_LAB").is_ok_and(|value| value == "required") => {
                Err(Failed::from(reason))
            }
            Some(reason) => Ok(Completion::ignored_with(reason)),
        }
    })
}

/// A running coturn, ended when dropped.
struct Coturn {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Coturn {
    fn start(more: &[&str]) -> Coturn {
        let directory = tempfile::tempdir().unwrap();
        // Several of them would share a port of one address.
        static STARTED: AtomicU8 = AtomicU8::new(1);
        let ip = Ipv4Addr::new(127, 0, 0, STARTED.fetch_add(1, Ordering::Relaxed));
        let free = std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let child = Command::new("turnserver")
            .args([
                "-n",
                "--no-udp",
                "--no-tls",
                "--no-dtls",
                "--no-cli",
                "--log-file",
                "stdout",
                "--simple-log",
            ])
            .args(["--listening-ip", &ip.to_string(), "--relay-ip", &ip.to_string()])
            .args(["--listening-port", &free.port().to_string()])
            .args(["--pidfile", &path("pid"), "--userdb", &path("db")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let coturn = Coturn { child, address: free, _directory: directory };
        let until = Instant::now() + SOON;
        while std::net::TcpStream::connect(free).is_err() {
            assert!(Instant::now() < until, "coturn does not listen at {free}");
            std::thread::sleep(Duration::from_millis(20));
        }
        coturn
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn coturn() {
    let (one, other) =
        (Coturn::start(&["--stun-only"]), Coturn::start(&["--no-stun-backward-compatibility"]));
    Runtime::new().unwrap().block_on(async {
        let sample = ask(one.address, None, 0).await.unwrap();
        assert_eq!((sample.observed, sample.destination), (sample.local, one.address));
        let servers = [one.address, other.address].map(|address| address.to_string());
        let mapping = mapping(&servers, Families::default()).await;
        assert!(mapping.silent.is_empty(), "{:?}", mapping.silent);
        assert_eq!(mapping.samples.len(), 2);
        assert!(mapping.samples.iter().all(|sample| sample.observed == mapping.samples[0].local));
    });
}

fn refusal() {
    let coturn =
        Coturn::start(&["--secure-stun", "--lt-cred-mech", "--realm", "example.org", "--user", "a:b"]);
    Runtime::new().unwrap().block_on(async {
        let refused = ask(coturn.address, None, 0).await;
        assert!(
            matches!(&refused, Err(StunError::Answer(BadStun::Refused { code: 401, .. }))),
            "{refused:?}"
        );
    });
}

/// What the foreign client prints of a broker on loopback.
fn ask_a_broker(more: &[&str]) -> String {
    Runtime::new().unwrap().block_on(async {
        let key = SecretKey::generate(&mut rand::rng());
        let server =
            Server::bind(ServerConfig::listening_on("127.0.0.1:0".parse().unwrap(), key)).await.unwrap();
        let address = server.addresses()[0];
        let running = tokio::spawn(server.run(|_| {}, std::future::pending()));
        let asking = tokio::process::Command::new(PYTHON)
            .args(["-c", AIOICE, &address.ip().to_string(), &address.port().to_string()])
            .args(more)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(SOON, asking).await.expect("in time").unwrap();
        running.abort();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    })
}

fn aioice() {
    let told = ask_a_broker(&[]);
    let words: Vec<&str> = told.split_whitespace().collect();
    assert_eq!(words.len(), 4, "{told}");
    assert_eq!(words[..2], words[2..], "as its own kernel says");
}

fn needy() {
    assert_eq!(ask_a_broker(&["needs"]).trim(), "failed 420 Unknown Attribute");
}
