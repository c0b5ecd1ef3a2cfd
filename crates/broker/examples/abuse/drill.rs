//! Starts the three processes for each flood, and judges.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::flood::Kind;
use crate::peer::Peer;

/// What the broker may hold at most, in MiB: 8,192 links with 14 KiB each, 1,536 other connections
/// with less, 16 MiB of tables; the rest is for queues and the allocator.
const MEMORY_MOST: f64 = 256.0;
/// Milliseconds in which 99 of 100 honest pairs are introduced.
const P99_MOST: f64 = 200.0;

struct Plan {
    seconds: f64,
    addresses: usize,
    kinds: Vec<Kind>,
    /// Timing fails nothing: this machine may be busy with other things.
    quick: bool,
}

struct Broker {
    child: Child,
    address: String,
}

/// Figures as `name value` pairs.
struct Figures(HashMap<String, f64>);

impl Figures {
    fn read(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let pairs = words.chunks_exact(2).filter_map(|pair| match pair {
            [name, value] => Some(((*name).to_owned(), value.parse().ok()?)),
            _ => None,
        });
        Figures(pairs.collect())
    }

    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> ExitCode {
    let mut plan = Plan { seconds: 15.0, addresses: 1000, kinds: Kind::EACH.to_vec(), quick: false };
    for argument in arguments {
        match *argument {
            "--quick" => {
                plan.quick = true;
                plan.seconds = 1.0;
                plan.addresses = 100;
            }
            kind => match kind.parse() {
                Ok(kind) if plan.kinds.len() == Kind::EACH.len() => plan.kinds = vec![kind],
                Ok(kind) => plan.kinds.push(kind),
                Err(other) => {
                    eprintln!("no flood is called {other}");
                    return ExitCode::from(2);
                }
            },
        }
    }
    println!(
        "floods from {} addresses, {} s each; the honest come from others, two new ones a pair",
        plan.addresses, plan.seconds
    );
    println!(
        "{:<13}{:>9}{:>9}{:>7}{:>5}{:>6} {:>7}{:>8}{:>8}{:>8}{:>8}{:>7} {:>6}{:>6}{:>6} {:>5}",
        "flood",
        "tried/s",
        "refused",
        "pairs",
        "fail",
        "full",
        "p50 ms",
        "p99",
        "max",
        "go p99",
        "lobby99",
        "late99",
        "RSS",
        "most",
        "after",
        "CPU"
    );
    let broker = Broker::start(program);
    let mut faults = Vec::new();
    for kind in &plan.kinds {
        broker.under(*kind, &plan, &mut faults);
    }
    // What the floods left goes when their connections go, and what was kept for them expires.
    std::thread::sleep(Duration::from_secs(1));
    println!("resident at the end: {:.1} MiB", broker.memory());
    for fault in &faults {
        println!("FAILED: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Broker {
    fn start(program: &str) -> Self {
        let mut child = Command::new(program)
            .args(["broker", "--ephemeral", "--listen", "127.0.0.1:0", "--probe", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the broker");
        let mut said = BufReader::new(child.stderr.take().expect("its stderr"));
        let mut line = String::new();
        said.read_line(&mut line).expect("its first line");
        let address = line.split_whitespace().last().expect("its address").to_owned();
        std::thread::spawn(move || {
            let _ = said.read_to_end(&mut Vec::new());
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let at = address.parse().expect("an address");
        let key = runtime.block_on(Peer::learn_key(at)).expect("its key");
        Broker { child, address: format!("{address}#{key}") }
    }

    fn under(&self, kind: Kind, plan: &Plan, faults: &mut Vec<String>) {
        let own = std::env::current_exe().expect("this program");
        let (seconds, addresses) = (plan.seconds.to_string(), plan.addresses.to_string());
        let before = self.memory();
        let spent = self.cpu();
        let began = Instant::now();
        let honest = Command::new(&own)
            .args(["honest", &self.address, &seconds])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the honest");
        // It takes what the other two leave: so it is the broker that is measured, and not who
        // measures.
        let flood = Command::new("nice")
            .args(["-n", "19"])
            .arg(own)
            .args(["flood", &kind.to_string(), &self.address, &seconds, &addresses])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the flood");
        let mut most = before;
        while began.elapsed().as_secs_f64() < plan.seconds {
            std::thread::sleep(Duration::from_millis(50));
            most = self.memory().max(most);
        }
        let honest = Figures::read(&output(honest));
        let cpu = self.cpu() - spent;
        let flood = Figures::read(&output(flood));
        // Its connections are gone now.
        std::thread::sleep(Duration::from_millis(500));
        let after = self.memory();
        let (failed, full) = (honest.get("failed"), honest.get("lobby_full"));
        println!(
            "{kind:<13}{:>9.0}{:>9.0}{:>7}{:>5}{:>6} {:>7.2}{:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>7.2} {before:>6.1}{most:>6.1}{after:>6.1} {cpu:>5.1}",
            flood.get("attempted") / plan.seconds,
            flood.get("refused") / plan.seconds,
            honest.get("done"),
            failed,
            full,
            honest.get("cold_p50"),
            honest.get("cold_p99"),
            honest.get("cold_max"),
            honest.get("warm_p99"),
            honest.get("lobby_p99"),
            honest.get("late_p99"),
        );
        let mut fault = |what: String| faults.push(format!("{}: {what}", kind.what()));
        if failed > 0.0 || honest.get("done").is_nan() || honest.get("done") < 1.0 {
            fault(format!("{failed} honest pairs failed"));
        }
        // An open lobby that others have filled is full; nothing else may keep a pair out.
        if full > 0.0 && !matches!(kind, Kind::Joins | Kind::Members | Kind::All) {
            fault(format!("{full} honest pairs found the lobby full"));
        }
        if most > MEMORY_MOST {
            fault(format!("{most:.1} MiB resident, {MEMORY_MOST} at most"));
        }
        for (name, what) in [("cold_p99", "by code"), ("lobby_p99", "in the lobby")] {
            if honest.get(name) > P99_MOST && !plan.quick {
                fault(format!("p99 {what} is {:.1} ms, {P99_MOST} at most", honest.get(name)));
            }
        }
    }

    /// MiB resident.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(f64::INFINITY)
            / 1024.0
    }

    /// Seconds of computing so far; the kernel counts hundredths.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn output(child: Child) -> String {
    let output = child.wait_with_output().expect("its figures");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
