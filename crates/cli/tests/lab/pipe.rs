//! What a pipe carries: much, exactly, and nothing of it over the broker.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::kinds::Kind;
use crate::scene::{Scene, syns_to_peers};
use crate::{number_from_environment, trial};

const MEGABYTE: u64 = 1_000_000;
/// What the broker's links may move while peers talk: their keep-alives.
const BROKER_MOST: u64 = 64 * 1024;
/// Longer than a connection lives without a sign of life.
const PAUSE: u64 = 40;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("pipe::a_reader_that_pauses_is_not_taken_for_dead", paused_reader),
        trial("pipe::a_hundred_megabytes_pass_the_broker_by", bulk),
        trial("pipe::the_broker_dials_nobody", broker_is_passive),
    ]
}

/// Bytes that look random and cost nothing.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            // xorshift64
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Writes that many bytes, then closes; tells how many it got rid of, and the hash of all.
fn feed(mut input: ChildStdin, bytes: u64) -> (Arc<AtomicU64>, JoinHandle<blake3::Hash>) {
    let written = Arc::new(AtomicU64::new(0));
    let progress = written.clone();
    let thread = thread::spawn(move || {
        let (mut noise, mut hasher) = (Noise(0x7463_7075_6e63_6831), blake3::Hasher::new());
        let mut buffer = [0; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            let length = usize::try_from(left.min(buffer.len() as u64)).unwrap();
            noise.fill(&mut buffer[..length]);
            hasher.update(&buffer[..length]);
            if input.write_all(&buffer[..length]).is_err() {
                break;
            }
            progress.fetch_add(length as u64, Ordering::Relaxed);
            left -= length as u64;
        }
        hasher.finalize()
    });
    (written, thread)
}

/// Reads to the end: how much came, and its hash.
fn drain(mut output: ChildStdout) -> (u64, blake3::Hash) {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let length = output.read(&mut buffer).unwrap();
        if length == 0 {
            return (bytes, hasher.finalize());
        }
        hasher.update(&buffer[..length]);
        bytes += length as u64;
    }
}

fn bulk() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let [one, other] =
        ["one", "other"].map(|name| Kind::PreservingDrop.site(&scene.lab, name, Duration::ZERO));
    let mut pipe = scene.pipe(&broker_host, &one, &other);
    let moved = || {
        let traffic = broker_host.traffic().unwrap();
        traffic.bytes_in + traffic.bytes_out
    };
    let before = moved();
    let began = Instant::now();
    let bytes = 100 * MEGABYTE;
    let (_, fed) = feed(pipe.listen.take_input(), bytes);
    let (came, hash) = drain(pipe.connect.take_output());
    let took = began.elapsed();
    let by_the_broker = moved() - before;
    scene.journal.assert(came == bytes, &format!("{came} bytes came of {bytes}"));
    scene.journal.assert(fed.join().unwrap() == hash, "other bytes came");
    scene.journal.assert(by_the_broker < BROKER_MOST, &format!("the broker moved {by_the_broker} bytes"));
    pipe.connect.close_input();
    pipe.listen.ends_well();
    pipe.connect.ends_well();
    println!("{bytes} bytes across two NATs in {took:.1?}; the broker's interface moved {by_the_broker}");
}

/// One direction is full and not read, the other has ended.
fn paused_reader() {
    let pause = Duration::from_secs(number_from_environment("TCPUNCH_LAB_PAUSE").unwrap_or(PAUSE));
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let [one, other] =
        ["one", "other"].map(|name| Kind::PreservingDrop.site(&scene.lab, name, Duration::ZERO));
    let mut pipe = scene.pipe(&broker_host, &one, &other);
    // More than the largest window and all buffers between.
    let bytes = 40 * MEGABYTE;
    let (written, fed) = feed(pipe.listen.take_input(), bytes);
    // The half-close comes through though the window of the other direction is full, or about to be.
    pipe.connect.say("that was all from here");
    pipe.connect.close_input();
    let mut said = String::new();
    pipe.listen.take_output().read_to_string(&mut said).unwrap();
    scene
        .journal
        .assert(said == "that was all from here\n", "the half-closed direction carried something else");
    // The pause is what is tested.
    let until = Instant::now() + pause;
    while Instant::now() < until {
        scene.journal.assert(pipe.listen.is_running(), "the writer took the reader for dead");
        scene.journal.assert(pipe.connect.is_running(), "the reader gave up");
        thread::sleep(Duration::from_millis(200));
    }
    let stuck_at = written.load(Ordering::Relaxed);
    scene.journal.assert(stuck_at < bytes, "the window never was full");
    let (came, hash) = drain(pipe.connect.take_output());
    scene.journal.assert(came == bytes, &format!("{came} bytes came of {bytes}"));
    scene.journal.assert(fed.join().unwrap() == hash, "other bytes came");
    pipe.listen.ends_well();
    pipe.connect.ends_well();
    println!("paused for {pause:?} with {stuck_at} bytes taken");
}

/// Nothing but its knocks leaves the broker's host in a whole introduction.
fn broker_is_passive() {
    let scene = Scene::new();
    let (broker_host, _broker) = scene.broker();
    let one = Kind::PreservingReset.site(&scene.lab, "one", Duration::from_millis(5));
    let other = Kind::Independent.site(&scene.lab, "other", Duration::from_millis(5));
    let mut pipe = scene.pipe(&broker_host, &one, &other);
    pipe.talk_and_end();
    scene.only_knocks(&broker_host);
    for peer in [&one, &other] {
        scene.journal.assert(syns_to_peers(peer, &broker_host).first > 0, "a peer did not dial");
    }
}
