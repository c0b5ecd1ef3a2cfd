//! Writes the seeds of every target: `seeds DIRECTORY` makes `DIRECTORY/TARGET/seed-N`.

use std::path::PathBuf;
use std::{env, fs, io};

use tcpunch_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from).ok_or(io::ErrorKind::InvalidInput)?;
    for target in TARGETS {
        let directory = directory.join(target.name);
        fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
