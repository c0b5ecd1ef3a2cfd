//! A broker that speaks the protocol well and lies: each over loopback, against the library.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect is to fail"
)]

mod raw;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use raw::{
    Events, RawBroker, Served, address, answer_opener, arrives, builder_at, fresh_key, hears, introduction,
    says, soon,
};
use tcpunch::{
    BrokerError, Code, ConnectError, Connection, Endpoint, Event, Invite, InviteNews, LobbyNews, Verb,
};
use tcpunch_core::limits::{
    LOBBY_INTRODUCTIONS, MAX_OBSERVED, PROOFS_PER_CODE, SYNS_PER_ADDRESS, SYNS_PER_LANE, WRONG_GUESSES,
};
use tcpunch_core::wire::{About, FromBroker, Introduction, Met, PREFACE, Refusal, Signal, ToBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An endpoint, the broker's end of its link, and what it did.
struct Held {
    endpoint: Endpoint,
    link: Served,
    events: Events,
}

impl Held {
    async fn at(broker: &RawBroker) -> Self {
        Self::within(broker, Duration::from_secs(4)).await
    }

    async fn within(broker: &RawBroker, timeout: Duration) -> Self {
        Self::with(broker, timeout, None).await
    }

    async fn with(broker: &RawBroker, timeout: Duration, observed: Option<SocketAddr>) -> Self {
        let events = Events::default();
        let builder = events.watch(builder_at(broker.at)).timeout(timeout);
        let (endpoint, link) = broker.endpoint(builder, observed).await;
        Held { endpoint, link, events }
    }

    /// Seen by the broker somewhere else than it is.
    async fn seen_at(broker: &RawBroker, observed: SocketAddr) -> Self {
        Self::with(broker, Duration::from_secs(4), Some(observed)).await
    }

    fn door(&self) -> SocketAddr {
        SocketAddr::new(address("127.0.0.1:0").ip(), self.endpoint.port())
    }

    /// Opens a code with this number; also its share.
    async fn invites(&mut self, number: u32) -> (Invite, Vec<u8>) {
        let (invite, share) =
            soon("a code", async { tokio::join!(self.endpoint.invite(), self.link.open(number)) }).await;
        (invite.unwrap(), share)
    }

    /// Begins to connect, and is answered with that share.
    async fn claims(&mut self, code: &Code, waiter: &Held, share: &[u8]) -> Connecting {
        let (endpoint, code) = (self.endpoint.clone(), code.clone());
        let number = code.number;
        let connecting = tokio::spawn(async move { endpoint.connect(code).await });
        self.link.hear(|message| matches!(message, ToBroker::Claim { .. })).await;
        self.claimed(number, waiter, share).await;
        connecting
    }

    async fn claimed(&mut self, number: u32, waiter: &Held, share: &[u8]) {
        let waiter = waiter.endpoint.key();
        self.link.say(FromBroker::Claimed { number, claim: 1, waiter, share: share.to_vec() }).await;
    }

    /// Passes a proof on; what the waiter says to it.
    async fn proof(&mut self, number: u32, arriver: &Held, share: Vec<u8>, handshake: Vec<u8>) -> ToBroker {
        let peer = arriver.endpoint.key();
        self.link.say(FromBroker::Proof { number, claim: 1, peer, share, handshake }).await;
        self.link.hear(|message| matches!(message, ToBroker::Accept { .. } | ToBroker::Reject { .. })).await
    }

    async fn introduced(&mut self, introduction: &Introduction) {
        self.link.say(FromBroker::Introduced(introduction.clone())).await;
    }

    fn introductions(&self) -> usize {
        self.events.count(|event| matches!(event, Event::Introduced { .. }))
    }
}

type Connecting = tokio::task::JoinHandle<Result<Connection, ConnectError>>;

async fn ends(connecting: Connecting) -> Result<Connection, ConnectError> {
    soon("an end", connecting).await.unwrap()
}

/// Two endpoints that have agreed by a code, and the introductions that are still to be made.
struct Agreed {
    waiter: Held,
    arriver: Held,
    invite: Invite,
    connecting: Connecting,
    to_waiter: Introduction,
    to_arriver: Introduction,
}

impl Agreed {
    async fn at(broker: &RawBroker) -> Self {
        let (mut waiter, mut arriver) = (Held::at(broker).await, Held::at(broker).await);
        let (invite, share) = waiter.invites(412).await;
        let connecting = arriver.claims(invite.code(), &waiter, &share).await;
        let (_, share, handshake) = arriver.link.proof().await;
        let ToBroker::Accept { handshake: answer, .. } = waiter.proof(412, &arriver, share, handshake).await
        else {
            panic!("the words are right")
        };
        let (doors, keys) =
            ([waiter.door(), arriver.door()], [waiter.endpoint.key(), arriver.endpoint.key()]);
        let to_waiter = introduction(5, keys[1], &[doors[1]], Met::CodeWaiter { claim: 1 });
        let to_arriver = introduction(5, keys[0], &[doors[0]], Met::CodeArriver { claim: 1, answer });
        Agreed { waiter, arriver, invite, connecting, to_waiter, to_arriver }
    }

    async fn introduce(&mut self) {
        self.waiter.introduced(&self.to_waiter).await;
        self.arriver.introduced(&self.to_arriver).await;
    }

    async fn go(&mut self) {
        for side in [&mut self.waiter, &mut self.arriver] {
            side.link.say(FromBroker::Go { introduction: 5 }).await;
        }
    }

    /// The two meet, in spite of all, with few SYNs.
    async fn meets(&mut self) -> (Connection, Connection) {
        let waiter = soon("the waiter", self.invite.accept()).await.unwrap();
        let arriver =
            ends(std::mem::replace(&mut self.connecting, tokio::spawn(std::future::pending()))).await;
        let arriver = arriver.unwrap();
        says(&waiter, b"here").await;
        hears(&arriver, b"here").await;
        for side in [&self.waiter, &self.arriver] {
            assert_eq!(side.introductions(), 1);
            let fired = side.events.fired().len();
            assert!(fired <= 2 * SYNS_PER_LANE as usize, "{fired} SYNs");
        }
        (waiter, arriver)
    }
}

// --- Keys and addresses ---

#[tokio::test]
async fn two_pairs_whose_keys_are_swapped_learn_nothing_of_each_other() {
    let broker = RawBroker::start().await;
    let (mut w1, mut w2) = (Held::at(&broker).await, Held::at(&broker).await);
    let (mut a1, mut a2) = (Held::at(&broker).await, Held::at(&broker).await);
    let (i1, s1) = w1.invites(501).await;
    let (mut i2, s2) = w2.invites(502).await;
    // Each arriver gets the other's waiter.
    let c1 = a1.claims(i1.code(), &w2, &s2).await;
    let c2 = a2.claims(i2.code(), &w1, &s1).await;
    let (_, share, handshake) = a1.link.proof().await;
    let answer = w2.proof(502, &a1, share, handshake).await;
    assert!(matches!(answer, ToBroker::Reject { left: 2, .. }), "{answer:?}");
    assert!(matches!(i2.news().await, InviteNews::WrongGuess(2)));
    a1.link.say(FromBroker::WrongWords { claim: 1, left: 2 }).await;
    let refused = ends(c1).await;
    assert!(matches!(refused, Err(ConnectError::WrongWords(2))), "{refused:?}");
    // The other arriver is introduced all the same, with an answer that nobody made for it.
    a2.link.proof().await;
    let met = Met::CodeArriver { claim: 1, answer: vec![7; 100] };
    a2.introduced(&introduction(6, w1.endpoint.key(), &[w1.door()], met)).await;
    let refused = ends(c2).await;
    assert!(matches!(refused, Err(ConnectError::WrongWords(_))), "{refused:?}");
    for side in [&w1, &w2, &a1, &a2] {
        assert_eq!(side.events.fired(), [], "nobody is dialled");
        assert_eq!(side.introductions(), 0);
        let said = format!("{:?}", side.link.heard);
        for word in [i1.code().secret.text(), i2.code().secret.text()] {
            assert!(!said.contains(word));
        }
    }
    drop((i1, i2));
}

/// Whatever is changed on its way counts as a wrong guess, of which both sides are told, and nobody is dialled.
#[tokio::test]
async fn changed_shares_and_proofs_are_wrong_guesses() {
    let broker = RawBroker::start().await;
    let flip = |bytes: &[u8]| {
        let mut changed = bytes.to_vec();
        *changed.last_mut().unwrap() ^= 0x80;
        changed
    };
    for case in 0..3 {
        let (mut waiter, mut arriver) = (Held::at(&broker).await, Held::at(&broker).await);
        let (mut invite, share) = waiter.invites(600).await;
        // The last bit of a share is the sign of a point: it is still a share.
        let handed = if case == 0 { flip(&share) } else { share.clone() };
        let connecting = arriver.claims(invite.code(), &waiter, &handed).await;
        let (_, mut share, mut handshake) = arriver.link.proof().await;
        match case {
            0 => {}
            1 => share = flip(&share),
            _ => handshake = flip(&handshake),
        }
        let answer = waiter.proof(600, &arriver, share, handshake).await;
        assert!(matches!(answer, ToBroker::Reject { left: 2, .. }), "case {case}: {answer:?}");
        assert!(matches!(invite.news().await, InviteNews::WrongGuess(2)));
        // It can't make more of it than there are.
        arriver.link.say(FromBroker::WrongWords { claim: 1, left: 255 }).await;
        let refused = ends(connecting).await;
        assert!(matches!(refused, Err(ConnectError::WrongWords(WRONG_GUESSES))), "{refused:?}");
        assert_eq!((waiter.events.fired(), arriver.events.fired()), (vec![], vec![]));
    }
}

/// A peer that is said to be where somebody else is: that one hears nothing of it, and the user reads what was met.
#[tokio::test]
async fn a_peer_that_is_said_to_be_where_another_is_meets_nobody() {
    let broker = RawBroker::start().await;
    let (mut one, mut bystander) = (Held::at(&broker).await, Held::at(&broker).await);
    let mut lobby = one.endpoint.lobby();
    one.link.joined().await;
    let member = fresh_key();
    let (_, opener) = arrives(&member);
    let at = [bystander.door()];
    one.introduced(&introduction(1, member.public(), &at, Met::LobbyWaiter { opener })).await;
    one.link.say(FromBroker::Go { introduction: 1 }).await;
    let obstacle = soon("an end", async {
        loop {
            if let LobbyNews::Unreachable(peer, obstacle) = lobby.news().await {
                assert_eq!(peer, member.public());
                return obstacle;
            }
        }
    })
    .await;
    assert!(obstacle.reason().contains("that is not the other side"), "{obstacle}");
    assert!(one.events.fired().iter().all(|to| *to == at[0]));
    bystander.link.hear_for(Duration::from_millis(50)).await;
    assert_eq!((bystander.introductions(), bystander.events.fired()), (0, vec![]));
}

/// What comes back as it was sent is nobody: each direction has a tag and a key of its own.
#[tokio::test]
async fn a_mirror_is_not_the_peer() {
    let broker = RawBroker::start().await;
    let mut one = Held::within(&broker, Duration::from_secs(2)).await;
    let mirror = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = mirror.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = mirror.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let mut lobby = one.endpoint.lobby();
    one.link.joined().await;
    let member = fresh_key();
    let (_, opener) = arrives(&member);
    one.introduced(&introduction(1, member.public(), &[at], Met::LobbyWaiter { opener })).await;
    one.link.say(FromBroker::Go { introduction: 1 }).await;
    let obstacle = soon("an end", async {
        loop {
            match lobby.news().await {
                LobbyNews::Unreachable(_, obstacle) => return obstacle,
                LobbyNews::Connected(connection) => panic!("{connection:?}"),
                _ => {}
            }
        }
    })
    .await;
    assert!(obstacle.reason().contains("that is not the other side"), "{obstacle}");
    assert!(obstacle.tried.lanes[0].impostors > 1, "{obstacle}");
}

// --- Go ---

#[tokio::test]
async fn whatever_is_said_of_go_two_who_agreed_meet() {
    let broker = RawBroker::start().await;
    for case in ["never", "before", "twice", "to one", "late"] {
        let mut agreed = Agreed::at(&broker).await;
        // A bound of an hour, or of nothing, changes no more than it may.
        let bound = if case == "never" { u32::MAX } else { 0 };
        agreed.to_waiter.round_trip_bound_us = bound;
        agreed.to_arriver.round_trip_bound_us = bound;
        if case == "before" {
            agreed.go().await;
        }
        agreed.introduce().await;
        match case {
            "twice" => {
                agreed.go().await;
                agreed.go().await;
            }
            "to one" => agreed.waiter.link.say(FromBroker::Go { introduction: 5 }).await,
            "late" => {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                agreed.go().await;
            }
            _ => {}
        }
        agreed.meets().await;
    }
}

#[tokio::test]
async fn a_replayed_introduction_is_none() {
    let broker = RawBroker::start().await;
    let mut agreed = Agreed::at(&broker).await;
    agreed.introduce().await;
    agreed.introduce().await;
    agreed.go().await;
    let (waiter, arriver) = agreed.meets().await;
    agreed.introduce().await;
    agreed.go().await;
    let again = Introduction { id: 77, ..agreed.to_arriver.clone() };
    agreed.arriver.introduced(&again).await;
    let fired = [agreed.waiter.events.fired(), agreed.arriver.events.fired()];
    // What is asked later is answered later.
    for side in [&mut agreed.waiter, &mut agreed.arriver] {
        side.invites(700).await;
        assert_eq!(side.introductions(), 1);
    }
    assert_eq!([agreed.waiter.events.fired(), agreed.arriver.events.fired()], fired);
    says(&arriver, b"untouched").await;
    hears(&waiter, b"untouched").await;
}

#[tokio::test]
async fn a_connect_that_is_given_up_after_the_introduction_fires_at_nobody() {
    let broker = RawBroker::start().await;
    let mut agreed = Agreed::at(&broker).await;
    agreed.arriver.introduced(&agreed.to_arriver.clone()).await;
    soon("the introduction", async {
        while agreed.arriver.introductions() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    agreed.connecting.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let fired = agreed.arriver.events.fired();
    agreed.arriver.link.say(FromBroker::Go { introduction: 5 }).await;
    // What is asked later is answered later.
    agreed.arriver.invites(700).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(agreed.arriver.events.fired(), fired);
}

#[tokio::test]
async fn a_broker_that_takes_links_and_refuses_them_is_asked_ever_more_rarely() {
    let broker = RawBroker::start().await;
    let (_endpoint, mut link) = broker.endpoint(builder_at(broker.at), None).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(4);
    let mut links = 0;
    loop {
        link.say(FromBroker::Refused { about: About::Link, refusal: Refusal::Full }).await;
        drop(link);
        match tokio::time::timeout_at(until, broker.accept(None)).await {
            Ok(next) => link = next,
            Err(_) => break,
        }
        links += 1;
    }
    // With pauses of a quarter of a second, and its jitter, 10 and more.
    assert!((1..=6).contains(&links), "{links} links in 4 s");
}

// --- Strangers, and addresses that are nobody's business ---

#[tokio::test]
async fn hundreds_of_strangers_are_refused_and_syns_are_few() {
    let broker = RawBroker::start().await;
    let mut one = Held::at(&broker).await;
    let mut lobby = one.endpoint.lobby();
    let openers = one.link.joined().await.len();
    // Nobody listens there: each SYN is refused, and invites another.
    let closed: Vec<SocketAddr> = (0..MAX_OBSERVED)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .map(|listener| listener.local_addr().unwrap())
        .collect();
    let mut made = Vec::new();
    for id in 0..300 {
        let member = fresh_key();
        let met = match id % 2 {
            0 => Met::LobbyArriver { opener: id % 64 },
            _ => Met::LobbyWaiter { opener: arrives(&member).1 },
        };
        let introduction = introduction(u64::from(id), member.public(), &closed, met);
        one.introduced(&introduction).await;
        one.link.say(FromBroker::Go { introduction: u64::from(id) }).await;
        made.push(introduction);
    }
    let mut ended = 0;
    let began = Instant::now();
    soon("all attempts", async {
        while ended < one.introductions() || ended == 0 {
            if let LobbyNews::Unreachable(..) = lobby.news().await {
                ended += 1;
            }
        }
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(one.introductions() <= LOBBY_INTRODUCTIONS, "{} strangers", one.introductions());
    let fired = one.events.fired().len();
    assert!(fired > 0 && fired <= SYNS_PER_ADDRESS as usize, "{fired} SYNs");
    one.link.hear_for(Duration::from_millis(50)).await;
    let answers = one.link.count(|message| matches!(message, ToBroker::Relay { .. }));
    assert!(answers <= LOBBY_INTRODUCTIONS && openers < 64, "{answers} answers");
}

/// Introduces made-up members at these addresses, one each; none of them is dialled, and the user reads why.
async fn none_is_dialled(mut one: Held, addresses: &[SocketAddr]) {
    let mut lobby = one.endpoint.lobby();
    one.link.joined().await;
    for (id, address) in (1..).zip(addresses) {
        let member = fresh_key();
        let met = Met::LobbyWaiter { opener: arrives(&member).1 };
        one.introduced(&introduction(id, member.public(), &[*address], met)).await;
        one.link.say(FromBroker::SeenAt { introduction: id, address: *address }).await;
        one.link.say(FromBroker::Go { introduction: id }).await;
    }
    for _ in addresses {
        let obstacle = soon("an end", async {
            loop {
                if let LobbyNews::Unreachable(_, obstacle) = lobby.news().await {
                    return obstacle;
                }
            }
        })
        .await;
        assert!(obstacle.tried.lanes.is_empty(), "{obstacle}");
    }
    assert_eq!(one.introductions(), addresses.len());
    assert_eq!(one.events.fired(), []);
}

#[tokio::test]
async fn what_is_no_peer_is_not_dialled() {
    let broker = RawBroker::start().await;
    let one = Held::at(&broker).await;
    let (port, broker) = (one.endpoint.port(), broker.at.port());
    let addresses = [
        // No single host.
        "0.0.0.0:5000".to_owned(),
        "224.0.0.1:5000".into(),
        "239.255.255.250:1900".into(),
        "255.255.255.255:5000".into(),
        format!("127.255.255.255:{broker}"),
        "240.0.0.1:5000".into(),
        "[::]:5000".into(),
        "[ff02::1]:5000".into(),
        "[::ffff:224.0.0.1]:5000".into(),
        "[::ffff:0.0.0.0]:5000".into(),
        // Oneself, and the broker.
        format!("127.0.0.1:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::1]:{port}"),
        format!("127.0.0.1:{broker}"),
        format!("[::ffff:127.0.0.1]:{broker}"),
        format!("[fe80::1]:{broker}"),
        // Of a family that is not in use.
        "[2001:db8::1]:5000".into(),
        // What the system listens on, here and in the network.
        "127.0.0.1:22".into(),
        "127.0.0.1:0".into(),
        "[::ffff:127.0.0.1]:80".into(),
        "10.1.2.3:443".into(),
        "192.168.1.1:80".into(),
        "100.64.0.1:23".into(),
    ];
    none_is_dialled(one, &addresses.map(|text| address(&text))).await;
}

/// To a peer outside the own network its addresses are none, whatever its port.
#[tokio::test]
async fn a_peer_elsewhere_is_not_looked_for_in_the_own_network() {
    let broker = RawBroker::start().await;
    let one = Held::seen_at(&broker, address("198.51.100.7:23456")).await;
    let addresses = [
        "127.0.0.1:5000",
        "[::1]:5000",
        "[::ffff:127.0.0.1]:5000",
        "10.1.2.3:5000",
        "[::ffff:10.1.2.3]:5000",
        "172.16.0.1:5000",
        "192.168.1.7:5000",
        "169.254.1.1:5000",
        "100.64.0.1:5000",
        "[fd00::1]:5000",
        "198.51.100.7:23456",
        "[::ffff:198.51.100.7]:23456",
    ];
    none_is_dialled(one, &addresses.map(address)).await;
}

/// Own addresses are told to a member of the lobby only where it is near.
#[tokio::test]
async fn a_member_elsewhere_is_told_no_address() {
    let broker = RawBroker::start().await;
    let mut one = Held::seen_at(&broker, address("198.51.100.7:23456")).await;
    let _lobby = one.endpoint.lobby();
    one.link.joined().await;
    let member = fresh_key();
    let (mut opening, opener) = arrives(&member);
    let met = Met::LobbyWaiter { opener };
    one.introduced(&introduction(1, member.public(), &[address("203.0.113.9:5000")], met)).await;
    let relayed = one.link.hear(|message| matches!(message, ToBroker::Relay { .. })).await;
    let ToBroker::Relay { signal: Signal::Answer(answer), .. } = relayed else { panic!("{relayed:?}") };
    let (_, payload) = opening.finish(&one.endpoint.key(), &answer).unwrap();
    assert_eq!(payload.told.hosts, []);
    // And as the arriver, who would tell its own in a sealed signal.
    let mut other = Held::seen_at(&broker, address("198.51.100.7:23457")).await;
    let _lobby = other.endpoint.lobby();
    let openers = other.link.joined().await;
    let at = [address("203.0.113.9:5000")];
    let introduced = introduction(2, member.public(), &at, Met::LobbyArriver { opener: 0 });
    other.introduced(&introduced).await;
    let meeting = answer_opener(&member, &introduced, &openers[0], other.endpoint.key());
    let signal = Signal::Answer(meeting.answer.clone());
    other.link.say(FromBroker::Relayed { introduction: 2, signal }).await;
    other.link.hear_for(Duration::from_millis(300)).await;
    assert_eq!(other.link.count(|message| matches!(message, ToBroker::Relay { .. })), 0);
}

// --- Guesses ---

#[tokio::test]
async fn proofs_without_end_burn_the_code_after_three() {
    let broker = RawBroker::start().await;
    let (mut waiter, arriver) = (Held::at(&broker).await, Held::at(&broker).await);
    let (mut invite, mut share) = waiter.invites(412).await;
    for claim in 0..20 {
        // A share that is a point, and a handshake under no key.
        share[0] = 0x42;
        let peer = arriver.endpoint.key();
        let proof =
            FromBroker::Proof { number: 412, claim, peer, share: share.clone(), handshake: vec![7; 60] };
        waiter.link.say(proof).await;
    }
    for left in [2, 1, 0] {
        let news = soon("a guess", invite.news()).await;
        assert!(matches!(news, InviteNews::WrongGuess(now) if now == left), "{news:?}");
    }
    let ended = soon("the end", invite.news()).await;
    assert!(matches!(ended, InviteNews::Ended(Err(ConnectError::Burnt))), "{ended:?}");
    waiter.link.hear_for(Duration::from_millis(100)).await;
    let rejected = waiter.link.count(|message| matches!(message, ToBroker::Reject { .. }));
    let shares = waiter.link.count(|message| matches!(message, ToBroker::Wait { .. }));
    // The first share, and one after each guess but the last.
    assert_eq!((rejected, shares), (usize::from(WRONG_GUESSES), usize::from(WRONG_GUESSES)));
}

/// Whoever gives up before the broker has answered leaves its number to nobody, in whatever order the answers come.
#[tokio::test]
async fn an_invite_that_is_given_up_before_it_has_a_number_does_not_get_the_next_one_its_own() {
    let broker = RawBroker::start().await;
    for turned in [false, true] {
        let mut waiter = Held::at(&broker).await;
        let endpoint = waiter.endpoint.clone();
        let given_up = tokio::spawn(async move { endpoint.invite_for(Verb::Chat).await.map(drop) });
        let first = waiter.link.asked_for_a_code().await;
        given_up.abort();
        let endpoint = waiter.endpoint.clone();
        let invite = tokio::spawn(async move { endpoint.invite_for(Verb::Listen).await });
        let mut answers = [(first, 411), (waiter.link.asked_for_a_code().await, 412)];
        if turned {
            answers.reverse();
        }
        for (request, number) in answers {
            waiter.link.opened(request, number).await;
        }
        let wanted =
            |message: &ToBroker| matches!(message, ToBroker::Withdraw { .. } | ToBroker::Wait { .. });
        let mut heard = vec![waiter.link.hear(wanted).await, waiter.link.hear(wanted).await];
        if turned {
            heard.reverse();
        }
        assert!(matches!(heard[0], ToBroker::Withdraw { number: 411 }), "{heard:?}");
        assert!(matches!(heard[1], ToBroker::Wait { number: 412, .. }), "{heard:?}");
        let invite = soon("a code", invite).await.unwrap().unwrap();
        assert_eq!(invite.code().number, 412);
    }
}

/// A broker that lets an arriver try again and again gets no more proofs of a code to test words with.
#[tokio::test]
async fn an_arriver_proves_a_code_three_times_at_most() {
    let broker = RawBroker::start().await;
    let (mut waiter, mut arriver) = (Held::at(&broker).await, Held::at(&broker).await);
    let (invite, share) = waiter.invites(412).await;
    let mut last = None;
    for _ in 0..6 {
        let connecting = arriver.claims(invite.code(), &waiter, &share).await;
        for _ in 0..3 {
            arriver.claimed(412, &waiter, &share).await;
        }
        let refused = FromBroker::Refused { about: About::Claim(412), refusal: Refusal::NoSuchCode };
        arriver.link.say(refused).await;
        last = ends(connecting).await.err();
    }
    assert!(matches!(last, Some(ConnectError::NoAnswer)), "{last:?}");
    arriver.link.hear_for(Duration::from_millis(100)).await;
    let proofs = arriver.link.count(|message| matches!(message, ToBroker::Prove { .. }));
    assert_eq!(proofs, usize::from(PROOFS_PER_CODE));
    // Another code is another matter.
    let mut other = invite.code().clone();
    other.number = 413;
    arriver.claims(&other, &waiter, &share).await;
    arriver.link.proof().await;
}

// --- Stalls ---

/// Wherever it falls silent, the user is told in time, and whose fault it is.
#[tokio::test]
async fn a_broker_that_stalls_is_given_up_in_time() {
    let broker = RawBroker::start().await;
    let patience = Duration::from_secs(1);
    let began = Instant::now();
    // No code is opened.
    let one = Held::within(&broker, patience).await;
    let silent = soon("an end", one.endpoint.invite()).await;
    assert!(matches!(silent, Err(ConnectError::Broker(BrokerError::Silent))));
    // A claim is not answered.
    let code: Code = "412-abandon-zoo".parse().unwrap();
    let silent = soon("an end", one.endpoint.connect(code)).await;
    assert!(matches!(silent, Err(ConnectError::NoAnswer)), "{silent:?}");
    // A proof is not answered.
    let (mut waiter, mut arriver) = (Held::at(&broker).await, Held::within(&broker, patience).await);
    let (invite, share) = waiter.invites(412).await;
    let connecting = arriver.claims(invite.code(), &waiter, &share).await;
    let (_, share, handshake) = arriver.link.proof().await;
    let silent = ends(connecting).await;
    assert!(matches!(silent, Err(ConnectError::NoAnswer)), "{silent:?}");
    // Only one side is introduced: the other never comes.
    let mut alone = Agreed::at(&broker).await;
    alone.to_arriver.addresses = vec![address("127.0.0.1:1025")];
    alone.arriver.introduced(&alone.to_arriver).await;
    let nobody = ends(alone.connecting).await;
    assert!(matches!(nobody, Err(ConnectError::NoDirectPath(_))), "{nobody:?}");
    assert!(began.elapsed() < raw::SOON);
    drop((share, handshake));
}

#[tokio::test]
async fn a_broker_of_another_version_is_named() {
    let broker = RawBroker::start().await;
    let binding = tokio::spawn(builder_at(broker.at).timeout(Duration::from_secs(4)).bind());
    let mut stream = broker.knock().await;
    stream.read_exact(&mut [0; PREFACE]).await.unwrap();
    stream.write_all(b"tcpunch\x02\x01").await.unwrap();
    let refused = soon("an end", binding).await.unwrap().err().unwrap().to_string();
    assert!(refused.contains("it speaks version 2 of the protocol, this is version 1"), "{refused}");
}

// --- The lobby ---

/// What is said again and again, and of whom nobody knows, is not passed on.
#[tokio::test]
async fn news_of_the_lobby_without_end_are_not_passed_on() {
    let broker = RawBroker::start().await;
    let mut one = Held::at(&broker).await;
    let mut lobby = one.endpoint.lobby();
    one.link.joined().await;
    for _ in 0..500 {
        one.link.say(FromBroker::Joined { members: 9, capacity: 16, introductions: 9 }).await;
        one.link.say(FromBroker::Left { peer: fresh_key().public() }).await;
        one.link.say(FromBroker::Ping(1)).await;
    }
    one.link.say(FromBroker::Refused { about: About::Join, refusal: Refusal::LobbyFull }).await;
    let mut news = Vec::new();
    soon("the end", async {
        loop {
            match lobby.news().await {
                LobbyNews::Refused(error) => return error,
                other => news.push(other),
            }
        }
    })
    .await;
    assert!(matches!(news[..], [LobbyNews::Joined { .. }]), "{} news", news.len());
}
