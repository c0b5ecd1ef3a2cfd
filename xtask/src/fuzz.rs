//! `cargo xtask fuzz`: builds the targets of `fuzz/targets` with libFuzzer and lets it look for what breaks them. Beside
//! the toolchain it needs a C++ compiler, in which libFuzzer is written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

/// What rustc does for a fuzzer on any toolchain: a counter for each edge, and a call at each comparison.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// No honest input is longer, but for bulk data, and shorter ones are tried faster.
const LONGEST: usize = 4096;

struct Options {
    targets: Vec<String>,
    seconds: u64,
    jobs: usize,
    keep: bool,
}

impl Options {
    fn read(arguments: &[&str], all: &[String]) -> Result<Options> {
        let mut options = Options { targets: Vec::new(), seconds: 60, jobs: 1, keep: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<u64> {
                let value = arguments.next().with_context(|| format!("{argument} needs a number"))?;
                value.parse().with_context(|| format!("{argument} needs a number, not {value}"))
            };
            match *argument {
                "--seconds" => options.seconds = number()?,
                "--jobs" => options.jobs = usize::try_from(number()?)?.max(1),
                "--keep" => options.keep = true,
                name if all.iter().any(|known| known == name) => options.targets.push(name.to_owned()),
                other => bail!("{other} is no target; there are {}", all.join(", ")),
            }
        }
        if options.targets.is_empty() {
            options.targets = all.to_vec();
        }
        Ok(options)
    }
}

/// Fuzzes as the arguments say.
///
/// # Errors
/// When the arguments are wrong, the build fails, or something was found.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<()> {
    let corpus = root.join("fuzz/corpus");
    let options = Options::read(arguments, &directories(&corpus)?)?;
    let fuzzer = Fuzzer { corpus, work: root.join("target/fuzz"), program: build(root)?, options };
    let waiting = Mutex::new(fuzzer.options.targets.iter());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..fuzzer.options.jobs {
            scope.spawn(|| {
                while let Some(target) = waiting.lock().ok().and_then(|mut waiting| waiting.next()) {
                    if let Err(error) = fuzzer.fuzz(target) {
                        eprintln!("{target}: {error:#}");
                        failed.lock().map(|mut failed| failed.push(target.as_str())).unwrap_or_default();
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if failed.is_empty() { Ok(()) } else { bail!("fuzzing failed: {}", failed.join(", ")) }
}

/// The names of the targets: each has a directory of what is kept for it.
fn directories(corpus: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(corpus).with_context(|| format!("cannot list {}", corpus.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn build(root: &Path) -> Result<PathBuf> {
    let version = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let version = String::from_utf8(version.stdout)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With a target named, the flags are not those of build scripts and macros.
    let status = Command::new(cargo)
        .current_dir(root.join("fuzz/libfuzzer"))
        .args(["build", "--release", "--target", host, "--target-dir"])
        .arg(root.join("target/fuzz/build"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the fuzzer does not build");
    }
    Ok(root.join("target/fuzz/build").join(host).join("release/tcpunch-libfuzzer"))
}

struct Fuzzer {
    corpus: PathBuf,
    work: PathBuf,
    program: PathBuf,
    options: Options,
}

impl Fuzzer {
    fn fuzz(&self, target: &str) -> Result<()> {
        let (kept, fresh) = (self.corpus.join(target), self.work.join("corpus").join(target));
        let (log, found) = (self.work.join(format!("{target}.log")), self.work.join("found"));
        fs::create_dir_all(&fresh)?;
        fs::create_dir_all(&found)?;
        if self.options.seconds == 0 {
            return self.keep(target, &kept, &fresh);
        }
        let good = self.call(target, &log, |command| {
            command
                .arg(format!("-max_total_time={}", self.options.seconds))
                .arg(format!("-max_len={LONGEST}"))
                .arg(format!("-artifact_prefix={}/{target}-", found.display()))
                .args(["-rss_limit_mb=1024", "-timeout=10", "-print_final_stats=1"])
                .args([&fresh, &kept]);
        })?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        println!("fuzz: {target:<11} {}", summary(&text));
        if !good {
            bail!("it broke; what broke it is in {}, the story in {}", found.display(), log.display());
        }
        if self.options.keep { self.keep(target, &kept, &fresh) } else { Ok(()) }
    }

    /// Of what was kept and what is new, the least that covers the same takes the place of what was kept; what has a name,
    /// because it once broke the target, stays. Done alone where the time to look is 0.
    fn keep(&self, target: &str, kept: &Path, fresh: &Path) -> Result<()> {
        let least = self.work.join("least").join(target);
        let _ = fs::remove_dir_all(&least);
        fs::create_dir_all(&least)?;
        let log = self.work.join(format!("{target}.merge.log"));
        let good = self.call(target, &log, |command| {
            command.arg("-merge=1").arg("-timeout=10").args([least.as_path(), kept, fresh]);
        })?;
        if !good {
            bail!("merging failed: {}", log.display());
        }
        let mut bytes = 0;
        for entry in fs::read_dir(kept)? {
            let entry = entry?;
            if replaceable(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        let mut files = 0;
        for entry in fs::read_dir(&least)? {
            let entry = entry?;
            bytes += fs::copy(entry.path(), kept.join(entry.file_name()))?;
            files += 1;
        }
        println!("kept: {target:<11} {files} inputs, {bytes} bytes");
        Ok(())
    }

    fn call(&self, target: &str, log: &Path, arguments: impl FnOnce(&mut Command)) -> Result<bool> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&self.program);
        command.env("TCPUNCH_FUZZ_TARGET", target).stdin(Stdio::null()).stdout(Stdio::null()).stderr(out);
        arguments(&mut command);
        let status = command.status().with_context(|| format!("cannot run {}", self.program.display()))?;
        Ok(status.success())
    }
}

/// Whether the fuzzer gave it its name, the SHA-1 of its bytes.
fn replaceable(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What libFuzzer says at its end, in one line: executions, edges, features (edges and how often), inputs.
fn summary(log: &str) -> String {
    let stat = |name: &str| {
        let prefix = format!("stat::{name}:");
        log.lines().find_map(|line| line.strip_prefix(&prefix)).map_or("?", str::trim).to_owned()
    };
    let last = |name: &str| {
        let status = log.lines().rev().filter(|line| line.starts_with('#'));
        let mut found = status.filter_map(|line| line.split(name).nth(1)?.split_whitespace().next());
        found.next().unwrap_or("?").to_owned()
    };
    format!(
        "{} executions, {} a second, {} edges, {} features, {} MB at most",
        stat("number_of_executed_units"),
        stat("average_exec_per_sec"),
        last(" cov: "),
        last(" ft: "),
        stat("peak_rss_mb"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_summed_up() {
        let log = "#2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                   #9\tDONE   cov: 31 ft: 40 corp: 5/9b lim: 4 exec/s: 4 rss: 31Mb\n\
                   stat::number_of_executed_units: 9\n\
                   stat::average_exec_per_sec:     4\n\
                   stat::peak_rss_mb:              31\n";
        assert_eq!(summary(log), "9 executions, 4 a second, 31 edges, 40 features, 31 MB at most");
    }

    #[test]
    fn inputs_with_a_name_are_not_replaced() {
        assert!(replaceable("da39a3ee5e6b4b0d3255bfef95601890afd80709"));
        assert!(!replaceable("found-order"));
    }

    #[test]
    fn arguments_are_read_and_mistakes_named() {
        let all = ["chat", "wire"].map(str::to_owned);
        let read = |arguments: &[&str]| Options::read(arguments, &all);
        let options = read(&["wire", "--seconds", "9", "--jobs", "0", "--keep"]).unwrap();
        assert_eq!((options.targets, options.seconds, options.jobs), (vec!["wire".to_owned()], 9, 1));
        assert!(options.keep);
        assert_eq!(read(&[]).unwrap().targets, all);
        for wrong in [&["who"][..], &["--seconds"], &["--jobs", "many"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
