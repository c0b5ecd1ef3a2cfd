//! Who connects with whom, and what is promised of it; started by `cargo xtask matrix`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's program: its output is for the terminal"
)]

mod heat;
mod rows;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

use tcpunch_scenarios::rows::rewrite;

/// Labs at a time. They mostly wait; more, and two processors let packets wait.
const LABS: usize = 10;
/// For how long the quick form begins runs on real kernels, of the heat map and of the rows each; the last ones take up to 15 s.
const QUICK: Duration = Duration::from_secs(18);
/// So many of these runs are wanted at least: 158 and 165 on two idle processors.
const QUICK_LEAST: usize = 40;

const USAGE: &str = "\
matrix                       everything, into docs/matrix.md
matrix --quick               whether what should connect does; nothing is written
matrix --heat                every network with every other, into docs/matrix.md
matrix --rows                what is promised; with --write into docs/matrix.md too
matrix --ablation            what each rule is worth; the same
matrix --replay SEED         one run of the rows again, in simulation, with all its segments
  --simulated RUNS           of each cell; of each row on each link
  --kernels RUNS             of an ablation or a replay instead of simulated ones
  --nftables                 these of an ablation through the kernels' own NATs
  --round-trip MS            an ablation's links (may be repeated)
  --rule NAME                only what this rule is worth (may be repeated)
  --row NAME                 only this row (may be repeated); nothing is written then
  --details                  a line for each row on each link
  --labs LABS                at a time";

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    All,
    Quick,
    Heat,
    Rows,
    Ablation,
    Replay(u64),
}

/// The command line.
struct Wanted {
    form: Form,
    simulated: Option<u64>,
    kernels: Option<u64>,
    nftables: bool,
    round_trips: Vec<Duration>,
    rules: Vec<String>,
    rows: Vec<String>,
    details: bool,
    write: bool,
    labs: usize,
}

fn wanted(mut arguments: impl Iterator<Item = String>) -> Option<Wanted> {
    let mut wanted = Wanted {
        form: Form::All,
        simulated: None,
        kernels: None,
        nftables: false,
        round_trips: Vec::new(),
        rules: Vec::new(),
        rows: Vec::new(),
        details: false,
        write: false,
        labs: LABS,
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => wanted.form = Form::Quick,
            "--heat" => wanted.form = Form::Heat,
            "--rows" => wanted.form = Form::Rows,
            "--ablation" => wanted.form = Form::Ablation,
            "--replay" => wanted.form = Form::Replay(arguments.next()?.parse().ok()?),
            "--simulated" => wanted.simulated = Some(arguments.next()?.parse().ok()?),
            "--kernels" => wanted.kernels = Some(arguments.next()?.parse().ok()?),
            "--nftables" => wanted.nftables = true,
            "--rule" => wanted.rules.push(arguments.next()?),
            "--round-trip" => wanted.round_trips.push(Duration::from_millis(arguments.next()?.parse().ok()?)),
            "--labs" => wanted.labs = arguments.next()?.parse().ok()?,
            "--row" => wanted.rows.push(arguments.next()?),
            "--details" => wanted.details = true,
            "--write" => wanted.write = true,
            _ => return None,
        }
    }
    Some(wanted)
}

fn main() -> ExitCode {
    let Some(wanted) = wanted(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match wanted.form {
        Form::Quick => {
            let good = [heat::quickly(wanted.labs, QUICK), rows::quickly(wanted.labs, QUICK)];
            return if good == [true; 2] { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Form::Replay(seed) => return rows::replay(seed, wanted.kernels),
        Form::Heat => heat::fully(&wanted),
        Form::Rows => rows::fully(&wanted, wanted.write),
        Form::Ablation => rows::ablate(&wanted, wanted.write),
        Form::All => heat::fully(&wanted)
            .and_then(|()| rows::fully(&wanted, true))
            .and_then(|()| rows::ablate(&wanted, true)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("can't write the pages: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether so many runs of the quick form on real kernels say anything; tells it if not.
fn enough(runs: usize) -> bool {
    let enough = runs >= QUICK_LEAST;
    if !enough {
        println!("  FAILS: only {runs} runs on real kernels, and {QUICK_LEAST} are wanted");
    }
    enough
}

/// Writes one part of the page anew.
fn write(part: &str, content: &str) -> io::Result<()> {
    let path = Path::new("docs").join("matrix.md");
    let page = fs::read_to_string(&path)?;
    fs::write(path, rewrite(&page, part, content))
}
