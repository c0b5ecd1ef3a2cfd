//! Runs a drawn scenario in virtual time:
//! `cargo run -p tcpunch-scenarios --example sim -- SEED [plain|lossy|kernel] [diagram]`.
#![allow(clippy::print_stdout, reason = "it is read by a person")]

use tcpunch_scenarios::draw::{draw, draw_kernel, troubled};
use tcpunch_scenarios::sim;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seed = arguments.next().and_then(|it| it.parse().ok()).unwrap_or(1);
    let scenario = match arguments.next().as_deref() {
        Some("lossy") => troubled(draw(seed)),
        Some("kernel") => draw_kernel(seed),
        Some(_) | None => draw(seed),
    };
    println!("{scenario:#?}");
    let record = arguments.next().is_some();
    let run = sim::run_closely(&scenario, sim::Options { record, ..sim::Options::default() });
    println!("{:#?}\n{:#?}", run.report, run.sides);
    println!("{}", run.diagram);
}
