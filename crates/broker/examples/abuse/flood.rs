//! What the hostile do, from many addresses at once and as fast as they can.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rand::Rng;
use tcpunch_core::code::Verb;
use tcpunch_core::limits::{MAX_HANDSHAKE, NUMBER_FIRST, NUMBER_LAST};
use tcpunch_core::secure::Pattern;
use tcpunch_core::wire::{FromBroker, Preface, Refusal, ToBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::peer::{Peer, Target, abort, connect, greeting, hostile, new_key};

macro_rules! kinds {
    ($($kind:ident $name:literal $what:literal,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind { $($kind,)* }

        impl Kind {
            pub(crate) const EACH: &[Kind] = &[$(Kind::$kind,)*];

            pub(crate) fn what(self) -> &'static str {
                match self { $(Kind::$kind => $what,)* }
            }
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Kind::$kind => $name,)* })
            }
        }

        impl FromStr for Kind {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text { $($name => Ok(Kind::$kind),)* other => Err(other.to_owned()) }
            }
        }
    };
}

kinds! {
    None "none" "honest pairs alone",
    Connects "connects" "connections that say nothing and are held",
    HalfHandshakes "half" "handshakes begun and held",
    Garbage "garbage" "random bytes",
    Handshakes "handshakes" "whole handshakes, registered and dropped",
    Links "links" "links that stay",
    Joins "joins" "joins of the lobby, which leave again",
    Members "members" "joins of the lobby, which stay",
    Guesses "guesses" "claims of numbers",
    Proofs "proofs" "claims of numbers, each found one with a wrong proof",
    Codes "codes" "codes opened",
    Frames "frames" "frames and handshakes of false length",
    Messages "messages" "pings without a pause",
    Observations "observations" "observations, held",
    All "all" "all of these at once",
}

#[derive(Default)]
struct Counts {
    attempted: Cell<u64>,
    refused: Cell<u64>,
}

impl Counts {
    fn attempt(&self) {
        self.attempted.set(self.attempted.get() + 1);
    }

    fn refuse(&self) {
        self.refused.set(self.refused.get() + 1);
    }
}

/// Prints one line of figures. All addresses flood until the time is over.
pub(crate) fn run(kind: Kind, to: Target, time: Duration, addresses: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let counts = Rc::new(Counts::default());
    let end = Instant::now() + time;
    LocalSet::new().block_on(&runtime, async {
        let singles: Vec<Kind> = match kind {
            Kind::All => {
                Kind::EACH.iter().copied().filter(|kind| !matches!(kind, Kind::None | Kind::All)).collect()
            }
            single => vec![single],
        };
        // Together they have as many connections as one alone.
        let at_once = at_once(kind).div_ceil(singles.len());
        let mut tasks = Vec::new();
        for n in 0..addresses {
            for single in &singles {
                for _ in 0..at_once {
                    let counts = counts.clone();
                    let single = *single;
                    tasks.push(tokio::task::spawn_local(async move {
                        while Instant::now() < end {
                            counts.attempt();
                            if timeout(time, act(single, hostile(n), to, end, &counts))
                                .await
                                .is_ok_and(|did| did.is_err())
                            {
                                counts.refuse();
                                // Connecting to a full backlog fails at once, again and again.
                                sleep(Duration::from_millis(1)).await;
                            }
                        }
                    }));
                }
            }
        }
        sleep(time).await;
        for task in tasks {
            task.abort();
        }
    });
    println!("attempted {} refused {}", counts.attempted.get(), counts.refused.get());
}

/// Connections at a time from each address; the machine's descriptors bound them.
fn at_once(kind: Kind) -> usize {
    match kind {
        Kind::None => 0,
        Kind::All => 12,
        _ => 8,
    }
}

/// One attempt; an error means that the broker refused it.
async fn act(kind: Kind, from: Ipv4Addr, to: Target, end: Instant, counts: &Counts) -> io::Result<()> {
    match kind {
        Kind::None | Kind::All => {}
        Kind::Connects => held(connect(from, to.address).await?).await?,
        Kind::HalfHandshakes => {
            let mut stream = connect(from, to.address).await?;
            let (_, greeting) = greeting(&new_key(), Some(&to.key));
            stream.write_all(&greeting).await?;
            held(stream).await?;
        }
        Kind::Garbage => {
            let mut stream = connect(from, to.address).await?;
            let bytes: [u8; 32] = rand::rng().random();
            stream.write_all(&bytes).await?;
            held(stream).await?;
        }
        Kind::Handshakes => abort(Peer::register(from, to).await?.stream),
        Kind::Links => held(Peer::register(from, to).await?.stream).await?,
        Kind::Joins | Kind::Members => {
            let mut peer = Peer::register(from, to).await?;
            let openers = vec![vec![0; MAX_HANDSHAKE]; 5];
            peer.say(&ToBroker::Join { connected: vec![], openers }).await?;
            let joined = matches!(peer.hear().await?, FromBroker::Joined { .. });
            if joined && kind == Kind::Members {
                held(peer.stream).await?;
            } else {
                abort(peer.stream);
            }
            if !joined {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        }
        Kind::Guesses | Kind::Proofs => guess(from, to, end, counts, kind == Kind::Proofs).await?,
        Kind::Codes => {
            let mut peer = Peer::register(from, to).await?;
            while Instant::now() < end {
                peer.say(&ToBroker::Open { request: 0, verb: Verb::Listen, again: None }).await?;
                counts.attempt();
                while !matches!(peer.hear().await?, FromBroker::Opened { .. }) {
                    counts.refuse();
                    sleep(Duration::from_millis(200)).await;
                    peer.say(&ToBroker::Open { request: 0, verb: Verb::Listen, again: None }).await?;
                    counts.attempt();
                }
            }
        }
        Kind::Frames => {
            if rand::rng().random() {
                let mut peer = Peer::register(from, to).await?;
                peer.stream.write_all(&[0xff; 4096]).await?;
                held(peer.stream).await?;
            } else {
                let mut stream = connect(from, to.address).await?;
                let preface = Preface::Link(Pattern::Xx).encode();
                stream.write_all(&[&preface[..], &[0xff; 2048]].concat()).await?;
                held(stream).await?;
            }
        }
        Kind::Messages => {
            let peer = Peer::register(from, to).await?;
            pings(peer, end, counts).await?;
        }
        Kind::Observations => {
            let mut stream = connect(from, to.address).await?;
            let token: [u8; 16] = rand::rng().random();
            stream.write_all(&[&Preface::Observe.encode()[..], &token].concat()).await?;
            held(stream).await?;
        }
    }
    Ok(())
}

/// Holds it until the broker closes it, which is a refusal.
async fn held(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 512];
    while stream.read(&mut bytes).await? > 0 {}
    Err(io::ErrorKind::ConnectionAborted.into())
}

async fn guess(from: Ipv4Addr, to: Target, end: Instant, counts: &Counts, prove: bool) -> io::Result<()> {
    let mut peer = Peer::register(from, to).await?;
    while Instant::now() < end {
        let last = if rand::rng().random() { 999 } else { NUMBER_LAST };
        let number = rand::rng().random_range(NUMBER_FIRST..=last);
        peer.say(&ToBroker::Claim { number, verb: Verb::Connect }).await?;
        counts.attempt();
        match peer.hear().await? {
            FromBroker::Claimed { claim, .. } if prove => {
                let proof = ToBroker::Prove { claim, share: vec![1; 33], handshake: vec![2; 48] };
                peer.say(&proof).await?;
            }
            FromBroker::Refused { refusal: Refusal::TooMany, .. } => {
                counts.refuse();
                sleep(Duration::from_millis(200)).await;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn pings(mut peer: Peer, end: Instant, counts: &Counts) -> io::Result<()> {
    let mut number = 0;
    while Instant::now() < end {
        for _ in 0..32 {
            number += 1;
            peer.say(&ToBroker::Ping(number)).await?;
            counts.attempt();
        }
        for _ in 0..32 {
            peer.hear().await?;
        }
    }
    Ok(())
}
