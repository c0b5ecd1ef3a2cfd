//! Punches a second in virtual time: two homes behind Linux' masquerade, 20 ms from the core each.
#![allow(clippy::print_stdout, reason = "it is read by a person")]

use std::time::{Duration, Instant};

use natlab::Attachment;
use natlab::link::Conditions;
use natlab::nat::presets::linux_masquerade;
use tcpunch_scenarios::sim::{self, Options};
use tcpunch_scenarios::{Arrangement, Network, Scenario, Side, Verdict};

/// Enough that a second passes on one processor.
const PUNCHES: u64 = 4_000;

fn home(seed: u64) -> Scenario {
    let cable = || Attachment::from(Conditions::delay(Duration::from_millis(20)));
    let side = || Side {
        network: Network { name: "home".to_owned(), layers: vec![linux_masquerade()], ipv6: None },
        cable: cable(),
        late: Duration::ZERO,
    };
    Scenario {
        sides: [side(), side()],
        broker: cable(),
        arrangement: Arrangement::Apart,
        timeout: Duration::from_secs(15),
        seed,
    }
}

/// Runs those that fall to one of several threads; how many connected.
fn share(thread: u64, threads: u64) -> usize {
    let seeds = (0..PUNCHES).filter(|seed| seed % threads == thread);
    seeds.filter(|seed| sim::run(&home(*seed)).verdict() == Verdict::Connected).count()
}

fn measure(threads: u64) {
    let began = Instant::now();
    let connected: usize = std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || share(thread, threads))).collect();
        running.into_iter().map(|it| it.join().unwrap_or(0)).sum()
    });
    let rate = PUNCHES as f64 / began.elapsed().as_secs_f64();
    println!("{threads} threads: {rate:>7.0} punches a second, {connected} of {PUNCHES} connected");
}

fn main() {
    let run = sim::run_closely(&home(0), Options { count: true, ..Options::default() });
    println!(
        "a punch: {} packets, each on each cable, {:?}",
        run.packets.unwrap_or(0),
        run.report.since_claim
    );
    println!("         {} events of hosts", run.events);
    measure(1);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if processors > 1 {
        measure(processors as u64);
    }
}
