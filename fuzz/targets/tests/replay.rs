//! Everything that fuzzing found worth keeping, once more: `fuzz/corpus/TARGET/*`, and the seeds.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that meets what it does not expect is to fail")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use tcpunch_fuzz::{TARGETS, Target, target};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

fn replay(name: &str) {
    let Target { run, seeds, .. } = target(name).unwrap();
    for (number, seed) in seeds().iter().enumerate() {
        assert!(catch_unwind(|| run(seed)).is_ok(), "seed {number} of {name}");
    }
    let mut files = 0;
    for entry in fs::read_dir(corpus().join(name)).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(catch_unwind(|| run(&bytes)).is_ok(), "{}", path.display());
        files += 1;
    }
    assert!(files > 0, "a corpus is kept for {name}");
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_and_every_kept_corpus_is_replayed() {
            let replayed = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
            let kept: BTreeSet<String> = fs::read_dir(corpus())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert_eq!(replayed, targets);
            assert_eq!(kept, targets);
        }
    };
}

replays! { addresses chat connection lane link peers puncher rendezvous sanitize store stun texts wire }
