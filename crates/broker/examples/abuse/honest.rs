//! Honest pairs: each comes from two addresses of its own, is introduced, and goes. Nothing is
//! tried twice.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tcpunch_core::code::Verb;
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::WRONG_GUESSES;
use tcpunch_core::secure::SHARE;
use tcpunch_core::wire::{About, FromBroker, Refusal, ToBroker};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::peer::{Peer, Target, any_honest};

/// Pairs at a time that use codes; one more uses the lobby, which has not more room.
const PAIRS: usize = 6;
/// Between two pairs of one place.
const PAUSE: Duration = Duration::from_millis(60);
/// A person would have given up.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Seen {
    /// Milliseconds from the arriver's connect, and from its claim or join, to both having Go.
    cold: Vec<f64>,
    warm: Vec<f64>,
    lobby: Vec<f64>,
    /// By how much this process overslept: what it would blame on the broker.
    late: Vec<f64>,
    lobby_full: u64,
    failed: u64,
    reasons: Vec<String>,
}

enum Outcome {
    Introduced,
    LobbyFull,
}

/// Prints one line of figures, as `name value` pairs.
pub(crate) fn run(to: Target, time: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seen = runtime.block_on(all(to, time));
    let mut seen = seen.lock().expect("the figures");
    let done = seen.cold.len() + seen.lobby.len();
    let (failed, full) = (seen.failed, seen.lobby_full);
    print!("done {done} failed {failed} lobby_full {full}");
    let Seen { cold, warm, lobby, late, reasons, .. } = &mut *seen;
    for (name, values) in [("cold", cold), ("warm", warm), ("lobby", lobby), ("late", late)] {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values.get((values.len() as f64 * share) as usize).copied().unwrap_or(0.0);
        let most = values.last().copied().unwrap_or(0.0);
        print!(" {name}_p50 {:.2} {name}_p99 {:.2} {name}_max {most:.2}", at(0.5), at(0.99));
    }
    println!();
    reasons.sort();
    reasons.dedup();
    for reason in reasons.iter().take(10) {
        eprintln!("honest pair failed: {reason}");
    }
}

async fn all(to: Target, time: Duration) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for place in 0..=PAIRS {
        tasks.spawn(pairs(to, end, seen.clone(), place == PAIRS));
    }
    let watched = seen.clone();
    tasks.spawn(async move {
        let step = Duration::from_millis(5);
        while Instant::now() < end {
            let before = Instant::now();
            sleep(step).await;
            let late = before.elapsed().saturating_sub(step);
            watched.lock().expect("the figures").late.push(late.as_secs_f64() * 1000.0);
        }
    });
    while tasks.join_next().await.is_some() {}
    seen
}

async fn pairs(to: Target, end: Instant, seen: Arc<Mutex<Seen>>, in_lobby: bool) {
    while Instant::now() < end {
        let outcome = if in_lobby {
            timeout(PATIENCE, lobby(to, &seen)).await
        } else {
            timeout(PATIENCE, code(to, &seen)).await
        };
        {
            let mut seen = seen.lock().expect("the figures");
            match outcome {
                Ok(Ok(Outcome::Introduced)) => {}
                Ok(Ok(Outcome::LobbyFull)) => seen.lobby_full += 1,
                Ok(Err(error)) => {
                    seen.failed += 1;
                    seen.reasons.push(error.to_string());
                }
                Err(_) => {
                    seen.failed += 1;
                    seen.reasons.push("not within 5 s".to_owned());
                }
            }
        }
        sleep(PAUSE).await;
    }
}

fn unexpected(what: &str, message: &FromBroker) -> io::Error {
    let name = format!("{message:?}");
    io::Error::other(format!("{what}: {}", name.get(..120).unwrap_or(&name)))
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

async fn code(to: Target, seen: &Mutex<Seen>) -> io::Result<Outcome> {
    let mut waiter = Peer::register(any_honest(), to).await?;
    waiter.say(&ToBroker::Open { request: 0, verb: Verb::Listen, again: None }).await?;
    let number = match waiter.hear().await? {
        FromBroker::Opened { number, .. } => number,
        other => return Err(unexpected("open", &other)),
    };
    waiter.say(&ToBroker::Wait { number, share: vec![0x41; SHARE] }).await?;
    let cold = Instant::now();
    let mut arriver = Peer::register(any_honest(), to).await?;
    let warm = Instant::now();
    arriver.say(&ToBroker::Claim { number, verb: Verb::Connect }).await?;
    let honest = arriver.key;
    let (one, two) = tokio::join!(arrive(&mut arriver), wait(&mut waiter, number, honest));
    one?;
    two?;
    let mut seen = seen.lock().expect("the figures");
    seen.cold.push(millis(cold));
    seen.warm.push(millis(warm));
    Ok(Outcome::Introduced)
}

/// The arriver proves with each share it is told; the broker can't tell a real proof from this one,
/// and its length is that of a real one.
async fn arrive(arriver: &mut Peer) -> io::Result<()> {
    let mut wanted = None;
    loop {
        match arriver.hear().await? {
            FromBroker::Claimed { claim, .. } => {
                let proof = ToBroker::Prove { claim, share: vec![0x42; SHARE], handshake: vec![7; 120] };
                arriver.say(&proof).await?;
            }
            FromBroker::Introduced(introduction) => wanted = Some(introduction.id),
            FromBroker::Go { introduction } if wanted == Some(introduction) => return Ok(()),
            other => return Err(unexpected("arriver", &other)),
        }
    }
}

/// The waiter accepts the honest proof and rejects those of others.
async fn wait(waiter: &mut Peer, number: u32, honest: PublicKey) -> io::Result<()> {
    let mut wanted = None;
    let mut left = WRONG_GUESSES;
    loop {
        match waiter.hear().await? {
            FromBroker::Proof { claim, peer, .. } if peer == honest => {
                waiter.say(&ToBroker::Accept { claim, handshake: vec![8; 120] }).await?;
            }
            FromBroker::Proof { claim, .. } => {
                left -= 1;
                waiter.say(&ToBroker::Reject { claim, left }).await?;
                if left == 0 {
                    return Err(io::Error::other("the code was burnt by guesses"));
                }
                waiter.say(&ToBroker::Wait { number, share: vec![0x41; SHARE] }).await?;
            }
            FromBroker::Introduced(introduction) => wanted = Some(introduction.id),
            FromBroker::Go { introduction } if wanted == Some(introduction) => return Ok(()),
            FromBroker::Gone { .. } => {
                waiter.say(&ToBroker::Wait { number, share: vec![0x41; SHARE] }).await?;
            }
            other => return Err(unexpected("waiter", &other)),
        }
    }
}

async fn lobby(to: Target, seen: &Mutex<Seen>) -> io::Result<Outcome> {
    let mut waiter = Peer::register(any_honest(), to).await?;
    if !join(&mut waiter).await? {
        return Ok(Outcome::LobbyFull);
    }
    let mut arriver = Peer::register(any_honest(), to).await?;
    let warm = Instant::now();
    if !join(&mut arriver).await? {
        return Ok(Outcome::LobbyFull);
    }
    let (a, w) = (arriver.key, waiter.key);
    let (one, two) = tokio::join!(go(&mut arriver, w), go(&mut waiter, a));
    one?;
    two?;
    seen.lock().expect("the figures").lobby.push(millis(warm));
    Ok(Outcome::Introduced)
}

async fn join(peer: &mut Peer) -> io::Result<bool> {
    peer.say(&ToBroker::Join { connected: vec![], openers: vec![vec![9; 34]; 31] }).await?;
    match peer.hear().await? {
        FromBroker::Joined { .. } => Ok(true),
        FromBroker::Refused { about: About::Join, refusal: Refusal::LobbyFull } => Ok(false),
        other => Err(unexpected("join", &other)),
    }
}

/// Waits for the introduction to this peer and its Go.
async fn go(peer: &mut Peer, with: PublicKey) -> io::Result<()> {
    let mut wanted = None;
    loop {
        match peer.hear().await? {
            FromBroker::Introduced(introduction) if introduction.peer == with => {
                wanted = Some(introduction.id)
            }
            FromBroker::Go { introduction } if wanted == Some(introduction) => return Ok(()),
            FromBroker::Refused { about, refusal } => {
                return Err(io::Error::other(format!("refused: {about:?} {refusal:?}")));
            }
            _ => {}
        }
    }
}
