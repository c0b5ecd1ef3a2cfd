//! Pairs of the population that do not connect, of one class: `cargo run --release -p tcpunch-scenarios --example failing --
//! CLASS COUNT`, as `'silent × random' 3000`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "it is read by a person")]

use tcpunch_scenarios::population::{Kind, Parameters, draw, numbers};
use tcpunch_scenarios::{Verdict, sim};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = arguments.first().unwrap();
    let count: u64 = arguments.get(1).unwrap().parse().unwrap();
    let parameters = Parameters::load().unwrap();
    let numbers = numbers(&parameters.best()).unwrap();
    for seed in std::env::var("FROM").map_or(1_u64 << 32, |it| it.parse().unwrap())..(1 << 32) + count {
        let pair = draw(&numbers, seed);
        let class = match Kind::of(&pair.scenario) {
            Kind::Ipv4(one, other) => format!("{} × {}", one.word(), other.word()),
            kind => format!("{kind:?}"),
        };
        if &class != wanted {
            continue;
        }
        let run = sim::run_closely(
            &pair.scenario,
            sim::Options { record: arguments.len() > 2, ..Default::default() },
        );
        if run.report.verdict() != Verdict::Connected {
            println!("{seed}: {:?} {:?}", run.report.sides, run.report.syns);
            if arguments.len() > 2 {
                println!("{:#?}\n{}\n{:#?}", pair.scenario, run.diagram, run.sides);
                return;
            }
        }
    }
}
