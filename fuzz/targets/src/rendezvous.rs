//! The broker, among peers that say anything in any order. A model beside it knows who may be told what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tcpunch_core::code::Verb;
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{
    BROKER_LINKS_PER_ADDRESS, CODE_LIFE, CODES_PER_SESSION, KNOCK_AGAIN_AFTER, MAX_HANDSHAKE, MAX_OBSERVED,
    MAX_RELAYED, NUMBER_FIRST, NUMBER_LAST, ROUNDS, WRONG_GUESSES,
};
use tcpunch_core::profile::NatProfile;
use tcpunch_core::rendezvous::{Config, Event, Input, KnockId, LinkId, Output, Rendezvous};
use tcpunch_core::secure::SHARE;
use tcpunch_core::wire::{
    self, ClaimId, FromBroker, Introduction, IntroductionId, KnockAnswer, Met, Probe, Signal, ToBroker, Word,
};

use crate::bytes::Bytes;

/// More than one message to each of all members, for each thing that one input can set off.
const OUTPUTS_AT_ONCE: usize = 10_000;
const VERBS: [Verb; 4] = [Verb::Listen, Verb::Connect, Verb::Chat, Verb::ChatJoin];
/// Virtual time begins somewhere.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let mut world = World::new(&mut input);
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.leave();
}

struct Code {
    owner: PublicKey,
    verb: Verb,
    checking: Option<ClaimId>,
    wrong: u8,
}

struct Introduced {
    sides: [PublicKey; 2],
    relayed: [u8; 2],
    went: [bool; 2],
}

/// A connect back to where an observation came from.
struct Knock {
    id: KnockId,
    peer: PublicKey,
    from: IpAddr,
    to: SocketAddr,
    at: Instant,
    /// The first of the two that are made for one answer.
    first: KnockId,
    /// Not to be repeated, or not again.
    again: bool,
}

/// What the broker was told last: nothing is said without a reason.
#[derive(Clone, PartialEq)]
enum Cause {
    Time,
    Up { peer: PublicKey, address: SocketAddr },
    Down,
    Observation { peer: Option<PublicKey>, question: [u8; 8], from: SocketAddr },
    Knocked { peer: PublicKey, first: KnockId },
    Said { peer: PublicKey, message: ToBroker },
}

struct World {
    broker: Rendezvous<ChaCha8Rng>,
    lobby_size: usize,
    now: Instant,
    cause: Cause,
    /// Every link that ever came up; the driver reports the end of each, also of those that the broker closed.
    all: Vec<LinkId>,
    coming: Option<LinkId>,
    links: BTreeMap<LinkId, (PublicKey, SocketAddr)>,
    tokens: BTreeMap<PublicKey, [u8; 8]>,
    lobby: BTreeSet<PublicKey>,
    codes: BTreeMap<u32, Code>,
    numbers: Vec<u32>,
    claims: BTreeMap<ClaimId, (u32, PublicKey)>,
    served: BTreeSet<ClaimId>,
    introductions: BTreeMap<IntroductionId, Introduced>,
    /// Under way, with whose observation each answers.
    knocks: Vec<Knock>,
    /// Knocks of which the answer was told, by the first of the two that are made for one answer.
    told: BTreeSet<KnockId>,
    /// What was observed of whom under which question.
    seen: BTreeMap<(PublicKey, [u8; 8]), BTreeSet<SocketAddr>>,
    /// Who asked for which round of which introduction, under which questions.
    asked: BTreeMap<(PublicKey, IntroductionId, u8), BTreeSet<[u8; 8]>>,
    wanted: BTreeSet<(IntroductionId, u8)>,
    began: BTreeSet<(IntroductionId, u8, PublicKey)>,
}

impl World {
    fn new(input: &mut Bytes<'_>) -> Self {
        let lobby_size = usize::from(input.u8() % 20);
        let config = Config {
            lobby: lobby_size,
            public: vec![Ipv4Addr::new(203, 0, 113, 9).into()],
            probes: vec![Probe { ip: Some(Ipv4Addr::new(192, 0, 2, 2).into()), port: 7767 }],
            ..Config::default()
        };
        World {
            broker: Rendezvous::new(config, ChaCha8Rng::seed_from_u64(input.u8().into())),
            lobby_size,
            now: *START,
            cause: Cause::Time,
            all: Vec::new(),
            coming: None,
            links: BTreeMap::new(),
            tokens: BTreeMap::new(),
            lobby: BTreeSet::new(),
            codes: BTreeMap::new(),
            numbers: Vec::new(),
            claims: BTreeMap::new(),
            served: BTreeSet::new(),
            introductions: BTreeMap::new(),
            knocks: Vec::new(),
            told: BTreeSet::new(),
            seen: BTreeMap::new(),
            asked: BTreeMap::new(),
            wanted: BTreeSet::new(),
            began: BTreeSet::new(),
        }
    }

    fn step(&mut self, input: &mut Bytes<'_>) {
        match input.u8() % 10 {
            0 | 1 => {
                let (peer, address) = (PublicKey([input.u8(); 32]), observed(input));
                let link = LinkId(self.all.len() as u64);
                self.all.push(link);
                self.coming = Some(link);
                self.links.insert(link, (peer, address));
                // Each link has a token of its own.
                let token = (link.0 << 8 | 0xf1).to_be_bytes();
                let up = Input::LinkUp { link, peer, observed: address, token };
                self.handle(Cause::Up { peer, address }, up);
                if self.coming.take().is_some() {
                    self.tokens.insert(peer, token);
                    self.no_address_has_too_many_links();
                }
            }
            2 => {
                if let Some(link) = self.any_link(input) {
                    self.gone(link);
                    self.handle(Cause::Down, Input::LinkDown { link });
                }
            }
            3 => {
                let unit = input.pick(&[1_u64, 100, 1_000, 30_000]);
                self.pass(Duration::from_millis(unit * u64::from(input.u8())));
            }
            4 => {
                let known: Vec<(PublicKey, [u8; 8])> = self.tokens.iter().map(|(p, t)| (*p, *t)).collect();
                let (peer, half) = match known.as_slice() {
                    [] => (None, input.array()),
                    known => {
                        let (peer, half) = input.pick(known);
                        (Some(peer), half)
                    }
                };
                let mut token = [0; 16];
                token[..8].copy_from_slice(&half);
                let question = question(input);
                token[8..].copy_from_slice(&question);
                let from = observed(input);
                if let Some(peer) = peer {
                    self.seen.entry((peer, question)).or_default().insert(from);
                }
                let knock_from = input.yes().then(|| Ipv4Addr::new(192, 0, 2, 1).into());
                let observation = Input::Observation { token, from, knock_from };
                self.handle(Cause::Observation { peer, question, from }, observation);
                if !self.knocks.is_empty()
                    && input.yes()
                    && let Some(Knock { id, peer, first, .. }) = self.knocks.pop()
                {
                    let answers = [KnockAnswer::Accepted, KnockAnswer::Refused, KnockAnswer::Silent];
                    let answer = input.yes().then(|| input.pick(&answers));
                    self.handle(Cause::Knocked { peer, first }, Input::Knocked { knock: id, answer });
                }
            }
            _ => {
                let Some(link) = self.any_link(input) else { return };
                let message = self.message(input);
                let round_trip = match input.u8() {
                    0 => None,
                    ms => Some(Duration::from_millis(ms.into())),
                };
                // What comes on a link that the broker closed is not heard.
                let Some((peer, _)) = self.links.get(&link).copied() else {
                    let before = self.cause.clone();
                    self.handle(Cause::Down, Input::Message { link, message, round_trip });
                    self.cause = before;
                    return;
                };
                self.before(peer, &message);
                let cause = Cause::Said { peer, message: message.clone() };
                self.handle(cause, Input::Message { link, message, round_trip });
            }
        }
    }

    fn any_link(&self, input: &mut Bytes<'_>) -> Option<LinkId> {
        let which = usize::from(input.u8());
        (!self.all.is_empty()).then(|| self.all[which % self.all.len()])
    }

    fn message(&mut self, input: &mut Bytes<'_>) -> ToBroker {
        let length = |input: &mut Bytes<'_>| match input.u8() {
            255 => MAX_HANDSHAKE + 1,
            254 => MAX_HANDSHAKE,
            short => usize::from(short % 64),
        };
        let share = |input: &mut Bytes<'_>| vec![1; if input.u8() == 255 { SHARE + 1 } else { SHARE }];
        match input.u8() % 15 {
            0 => ToBroker::Join {
                connected: (0..input.u8() % 4).map(|_| PublicKey([input.u8(); 32])).collect(),
                openers: (0..input.u8() % 20).map(|_| vec![2; length(input)]).collect(),
            },
            1 => ToBroker::Open { request: self.numbers.len() as u32, verb: input.pick(&VERBS), again: None },
            2 => {
                let (request, verb) = (self.numbers.len() as u32, input.pick(&VERBS));
                ToBroker::Open { request, verb, again: Some(self.number(input)) }
            }
            3 => ToBroker::Wait { number: self.number(input), share: share(input) },
            4 => ToBroker::Withdraw { number: self.number(input) },
            5 | 6 => ToBroker::Claim { number: self.number(input), verb: input.pick(&VERBS) },
            7 => ToBroker::Prove {
                claim: self.claim(input),
                share: share(input),
                handshake: vec![3; length(input)],
            },
            8 => ToBroker::Accept { claim: self.claim(input), handshake: vec![4; length(input)] },
            9 => ToBroker::Reject { claim: self.claim(input), left: input.u8() % 3 },
            10 => {
                let introduction = self.introduction(input);
                let signal = match input.u8() % 3 {
                    0 => Signal::Answer(vec![5; length(input)]),
                    1 => Signal::Sealed(vec![6; length(input)]),
                    _ => Signal::Word { round: input.u8(), word: input.pick(&[Word::Ready, Word::Fired]) },
                };
                ToBroker::Relay { introduction, signal }
            }
            11 => {
                let profile = NatProfile { translated: Some(input.yes()), ..NatProfile::default() };
                if input.yes() { ToBroker::Profile(profile) } else { ToBroker::Register { profile } }
            }
            12 => ToBroker::Ping(input.u8().into()),
            13 => ToBroker::Round {
                introduction: self.introduction(input),
                round: input.u8() % (ROUNDS + 2),
                question: question(input),
            },
            _ => wire::decode(input.piece()).unwrap_or(ToBroker::Pong(0)),
        }
    }

    fn number(&self, input: &mut Bytes<'_>) -> u32 {
        match (input.u8(), self.numbers.as_slice()) {
            (255, _) | (_, []) => input.u16().into(),
            (which, known) => known[usize::from(which) % known.len()],
        }
    }

    fn introduction(&self, input: &mut Bytes<'_>) -> IntroductionId {
        let known: Vec<IntroductionId> = self.introductions.keys().copied().collect();
        if known.is_empty() { input.u8().into() } else { input.pick(&known) }
    }

    fn claim(&self, input: &mut Bytes<'_>) -> ClaimId {
        let known: Vec<ClaimId> = self.claims.keys().copied().collect();
        if known.is_empty() { input.u8().into() } else { input.pick(&known) }
    }

    /// What the model learns from a message before the broker hears it.
    fn before(&mut self, peer: PublicKey, message: &ToBroker) {
        let own = |code: &Code| code.owner == peer;
        match message {
            ToBroker::Withdraw { number } if self.codes.get(number).is_some_and(own) => {
                self.codes.remove(number);
            }
            ToBroker::Round { introduction, round, question } => {
                self.asked.entry((peer, *introduction, *round)).or_default().insert(*question);
            }
            ToBroker::Reject { claim, left } => {
                let checked =
                    self.codes.iter_mut().find(|(_, code)| own(code) && code.checking == Some(*claim));
                if let Some((number, code)) = checked {
                    code.checking = None;
                    code.wrong += 1;
                    let number = *number;
                    if *left == 0 || code.wrong == WRONG_GUESSES {
                        self.codes.remove(&number);
                    }
                }
            }
            _ => {}
        }
    }

    fn gone(&mut self, link: LinkId) {
        let Some((peer, _)) = self.links.remove(&link) else { return };
        if self.links.values().all(|(other, _)| *other != peer) {
            self.tokens.remove(&peer);
            self.lobby.remove(&peer);
            self.codes.retain(|_, code| code.owner != peer);
        }
    }

    fn handle(&mut self, cause: Cause, input: Input) {
        self.cause = cause;
        self.broker.handle(self.now, input);
        self.drain();
        self.cause = Cause::Time;
        assert_eq!(self.broker.links(), self.links.len());
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.drain().filter(|at| *at <= end) {
            self.now = at;
        }
        self.now = end;
        self.drain();
    }

    fn drain(&mut self) -> Option<Instant> {
        for _ in 0..OUTPUTS_AT_ONCE {
            match self.broker.poll(self.now) {
                Output::Wait(at) => {
                    assert!(at.is_none_or(|at| at > self.now), "a driver would spin");
                    return at;
                }
                Output::Send { link, message } => {
                    let (to, _) = *self.links.get(&link).expect("nothing is said to who is gone");
                    wire::encode(&*message).expect("every message can be sent");
                    self.said(to, *message);
                }
                Output::Close { link } => {
                    assert!(self.links.contains_key(&link), "a link is closed once");
                    if self.coming == Some(link) {
                        self.coming = None;
                    }
                    self.gone(link);
                }
                Output::Knock { knock, from, to } => {
                    assert!(self.knocks.iter().all(|other| other.id != knock));
                    let (peer, first) = match self.cause {
                        Cause::Observation { peer: Some(peer), from, .. } => {
                            assert_eq!(to, from, "a broker dials nobody but who has just come from there");
                            (peer, knock)
                        }
                        Cause::Time => {
                            let unanswered = |other: &&mut Knock| {
                                let due = other.at + KNOCK_AGAIN_AFTER == self.now && !other.again;
                                due && (other.from, other.to) == (from, to)
                            };
                            let other = self.knocks.iter_mut().find(unanswered);
                            let other = other.expect("once more, where nothing came back");
                            other.again = true;
                            (other.peer, other.id)
                        }
                        _ => panic!("nothing else is a reason to knock"),
                    };
                    self.knocks.push(Knock {
                        id: knock,
                        peer,
                        from,
                        to,
                        at: self.now,
                        first,
                        again: first != knock,
                    });
                }
                Output::Event(Event::Left { peer }) => {
                    assert!(self.links.values().all(|(other, _)| *other != peer));
                }
                Output::Event(_) => {}
            }
        }
        panic!("there is no end to what is to be done");
    }

    fn said(&mut self, to: PublicKey, message: FromBroker) {
        let cause = self.cause.clone();
        let by = match &cause {
            Cause::Said { peer, .. } => Some(*peer),
            Cause::Time
            | Cause::Up { .. }
            | Cause::Down
            | Cause::Observation { .. }
            | Cause::Knocked { .. } => None,
        };
        match message {
            FromBroker::Observed { question, from } => {
                assert!(cause == Cause::Observation { peer: Some(to), question, from });
            }
            FromBroker::Opened { request, number, .. } => {
                let Cause::Said { peer, message: ToBroker::Open { request: asked, verb, .. } } = cause else {
                    panic!()
                };
                assert_eq!((peer, asked), (to, request));
                assert!((NUMBER_FIRST..=NUMBER_LAST).contains(&number));
                let before = self.codes.remove(&number);
                assert!(before.as_ref().is_none_or(|code| code.owner == to), "a number is one code's");
                let wrong = before.map_or(0, |code| code.wrong);
                self.codes.insert(number, Code { owner: to, verb, checking: None, wrong });
                self.numbers.push(number);
                let own = self.codes.values().filter(|code| code.owner == to).count();
                assert!(own <= CODES_PER_SESSION);
            }
            FromBroker::Expired { number } => {
                let makes_place = matches!(cause, Cause::Said { message: ToBroker::Open { .. }, .. });
                assert!(cause == Cause::Time || makes_place);
                // One whose owner was away for a while is kept, and this model has forgotten it.
                let code = self.codes.remove(&number);
                assert!(code.is_none_or(|code| code.owner == to));
            }
            FromBroker::Claimed { number, claim, waiter, share } => {
                assert_eq!(share.len(), SHARE);
                let code = &self.codes[&number];
                assert_eq!(code.owner, waiter);
                if let Cause::Said { message: ToBroker::Claim { verb, .. }, .. } = &cause {
                    assert_eq!(verb.partner(), code.verb, "verbs meet only their partner");
                }
                assert_ne!(waiter, to, "nobody meets itself");
                let before = self.claims.insert(claim, (number, to));
                assert!(before.is_none_or(|before| before == (number, to)));
            }
            FromBroker::Proof { number, claim, peer, share, handshake } => {
                assert_eq!(by, Some(peer));
                assert_eq!(self.claims[&claim], (number, peer));
                assert!(share.len() == SHARE && handshake.len() <= MAX_HANDSHAKE);
                let code = self.codes.get_mut(&number).unwrap();
                assert_eq!(code.owner, to);
                assert_eq!(code.checking.replace(claim), None, "one proof a share");
            }
            FromBroker::WrongWords { claim, left } => {
                assert!(
                    matches!(cause, Cause::Said { message: ToBroker::Reject { claim: c, left: l }, .. } if c == claim && left <= l)
                );
                assert_eq!(self.claims[&claim].1, to);
            }
            FromBroker::Gone { claim } => {
                assert!(
                    matches!(cause, Cause::Said { peer, message: ToBroker::Accept { claim: c, .. } } if (peer, c) == (to, claim))
                );
                let code = self.codes.values_mut().find(|code| code.checking == Some(claim)).unwrap();
                code.checking = None;
            }
            FromBroker::Introduced(introduction) => self.introduced(to, &cause, introduction),
            FromBroker::SeenAt { introduction, address } => {
                let Cause::Up { peer, address: at } = cause else { panic!("nobody came up") };
                assert_eq!(address, at);
                assert_eq!(self.other(introduction, to), peer, "only who is introduced is told");
            }
            FromBroker::ProfileOf { introduction, .. } => {
                assert_eq!(Some(self.other(introduction, to)), by, "only who is introduced is told");
            }
            FromBroker::Go { introduction } => {
                let introduced = self.introductions.get_mut(&introduction).unwrap();
                let side = usize::from(introduced.sides[0] != to);
                assert_eq!(introduced.sides[side], to);
                assert!(!std::mem::replace(&mut introduced.went[side], true), "Go comes once");
            }
            FromBroker::Relayed { introduction, signal } => {
                let from = self.other(introduction, to);
                assert_eq!(by, Some(from));
                let length = match &signal {
                    Signal::Answer(bytes) | Signal::Sealed(bytes) => bytes.len(),
                    Signal::Word { .. } => 2,
                };
                assert!(length <= MAX_HANDSHAKE);
                let introduced = self.introductions.get_mut(&introduction).unwrap();
                let side = usize::from(introduced.sides[0] != from);
                introduced.relayed[side] += 1;
                assert!(introduced.relayed[side] <= MAX_RELAYED, "the broker carries no data");
            }
            FromBroker::Joined { members, introductions, .. } => {
                assert_eq!(by, Some(to));
                let others = self.lobby.iter().filter(|member| **member != to).count();
                assert_eq!(members as usize, others, "nobody is there twice");
                assert!(introductions <= members);
                self.lobby.insert(to);
                assert!(self.lobby.len() <= self.lobby_size);
            }
            FromBroker::RoundWanted { introduction, round } => {
                let other = self.other(introduction, to);
                assert!(
                    matches!(cause, Cause::Said { peer, message: ToBroker::Round { introduction: i, round: r, .. } } if (peer, i, r) == (other, introduction, round))
                );
                assert!((1..ROUNDS).contains(&round));
                assert!(self.wanted.insert((introduction, round)), "the wish is told once");
            }
            FromBroker::Round { introduction, round, peer } => {
                let other = self.other(introduction, to);
                assert!((1..ROUNDS).contains(&round));
                let seen = |of: PublicKey| -> BTreeSet<SocketAddr> {
                    let questions = self.asked.get(&(of, introduction, round)).into_iter().flatten();
                    questions
                        .filter_map(|question| self.seen.get(&(of, *question)))
                        .flatten()
                        .copied()
                        .collect()
                };
                assert!(seen(other).contains(&peer), "only where it was seen, under a question of its own");
                assert!(!seen(to).is_empty(), "both have a fresh port");
                assert!(self.began.insert((introduction, round, to)), "a round begins once");
            }
            FromBroker::Knocked { .. } => {
                let Cause::Knocked { peer, first } = cause else { panic!("only what a knock met is told") };
                assert_eq!(peer, to, "who was seen there is told");
                assert!(self.told.insert(first), "an answer is told once");
            }
            FromBroker::Left { peer } => {
                assert!(self.lobby.contains(&to) && !self.lobby.contains(&peer));
            }
            FromBroker::Refused { .. } => {}
            FromBroker::Ping(_) | FromBroker::Pong(_) => {}
        }
    }

    fn introduced(&mut self, to: PublicKey, cause: &Cause, introduction: Introduction) {
        let Introduction { id, meeting, peer, addresses, .. } = introduction;
        assert_ne!(peer, to, "nobody meets itself");
        let known: BTreeSet<SocketAddr> =
            self.links.values().filter(|(other, _)| *other == peer).map(|(_, address)| *address).collect();
        assert!(addresses.iter().all(|address| known.contains(address)), "only where it was seen");
        assert!(addresses.len() <= MAX_OBSERVED);
        match (&meeting, cause) {
            (
                Met::LobbyArriver { opener },
                Cause::Said { peer: by, message: ToBroker::Join { openers, connected } },
            ) => {
                assert_eq!(*by, to);
                assert!((*opener as usize) < openers.len());
                assert!(self.lobby.contains(&peer) && !connected.contains(&peer));
            }
            (Met::LobbyWaiter { opener }, Cause::Said { peer: by, message: ToBroker::Join { .. } }) => {
                assert_eq!(*by, peer);
                assert!(opener.len() <= MAX_HANDSHAKE);
                assert!(self.lobby.contains(&to));
            }
            (
                Met::CodeArriver { claim, .. },
                Cause::Said { peer: by, message: ToBroker::Accept { claim: accepted, .. } },
            ) => {
                assert_eq!((*by, accepted), (peer, claim), "no address is told before the waiter accepts");
                let (number, arriver) = self.claims[claim];
                assert_eq!(arriver, to);
                let code = self.codes.get(&number).expect("a code serves once");
                assert_eq!((code.owner, code.checking), (peer, Some(*claim)));
                assert!(self.served.insert(*claim), "a claim serves once");
            }
            (
                Met::CodeWaiter { claim },
                Cause::Said { peer: by, message: ToBroker::Accept { claim: accepted, .. } },
            ) => {
                assert_eq!((*by, accepted), (to, claim), "no address is told before the waiter accepts");
                let (number, arriver) = self.claims[claim];
                assert_eq!(arriver, peer);
                assert_eq!(self.codes.remove(&number).map(|code| code.owner), Some(to));
            }
            (meeting, _) => panic!("nobody asked for {meeting:?}"),
        }
        let introduced = Introduced { sides: [to, peer], relayed: [0; 2], went: [false; 2] };
        let entry = self.introductions.entry(id).or_insert(introduced);
        assert!(entry.sides == [to, peer] || entry.sides == [peer, to]);
    }

    fn other(&self, introduction: IntroductionId, to: PublicKey) -> PublicKey {
        match self.introductions[&introduction].sides {
            [one, other] if one == to => other,
            [other, one] if one == to => other,
            _ => panic!("it is told of others' introduction"),
        }
    }

    fn no_address_has_too_many_links(&self) {
        let mut held: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (_, address) in self.links.values() {
            let holder = match address.ip().to_canonical() {
                IpAddr::V6(ip) => {
                    let [a, b, c, d, ..] = ip.segments();
                    Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
                }
                v4 => v4,
            };
            *held.entry(holder).or_default() += 1;
        }
        // One more while a session's new link takes the place of its old one.
        assert!(held.values().all(|links| *links <= BROKER_LINKS_PER_ADDRESS));
    }

    /// Everyone leaves, and in time nothing is left of them.
    fn leave(mut self) {
        for link in std::mem::take(&mut self.all) {
            self.gone(link);
            self.handle(Cause::Down, Input::LinkDown { link });
        }
        // Allowances are whole again after this as well.
        self.pass(2 * CODE_LIFE);
        assert!(self.broker.is_empty());
        assert_eq!(self.drain(), None, "no timer is left");
    }
}

/// Few questions, so that they meet.
fn question(input: &mut Bytes<'_>) -> [u8; 8] {
    [input.u8() % 8; 8]
}

/// Few addresses, so that many peers share them; some are beside the broker.
fn observed(input: &mut Bytes<'_>) -> SocketAddr {
    let (kind, host) = (input.u8(), input.u8());
    let ip: IpAddr = match kind % 5 {
        0 => Ipv4Addr::new(198, 51, 100, host).into(),
        1 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
        2 => Ipv4Addr::new(203, 0, 113, 1).into(),
        3 => Ipv4Addr::new(192, 168, 1, host).into(),
        _ => Ipv4Addr::new(198, 51, 100, host).to_ipv6_mapped().into(),
    };
    SocketAddr::new(ip, 1000 + u16::from(host))
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let begin = || vec![16, 1];
    let up = |n: u8, kind: u8| vec![0, n, kind, n];
    // A message on the n-th link, with a round trip of 20 ms.
    let say = |link: u8, message: &[u8]| [&[9, link], message, &[20]].concat();
    let join = |link| say(link, &[0, 0, 3, 40, 40, 40]);
    let pass = |unit: u8, times: u8| vec![3, unit, times];
    let two = || [begin(), up(1, 0), up(2, 0)].concat();
    let code = || [two(), say(0, &[1, 0]), say(0, &[3, 0, 0]), say(1, &[5, 0, 1])].concat();
    let proven = || [code(), say(1, &[7, 0, 0, 48])].concat();
    let met = || [two(), join(0), join(1)].concat();
    // For a round of the one introduction; an observation on behalf of the n-th session, and nothing knocks.
    let ask = |link: u8, round: u8, question: u8| say(link, &[13, 0, round, question]);
    let see = |session: u8, question: u8, host: u8| vec![4, session, question, 0, host, 1];
    let crowd: Vec<u8> = (0..140).flat_map(|n| up(n, 2)).collect();
    vec![
        [two(), join(0), join(1), say(0, &[10, 0, 1, 40]), say(1, &[10, 0, 0, 254]), vec![2, 0]].concat(),
        [proven(), say(0, &[8, 0, 48]), say(1, &[10, 0, 1, 40]), pass(2, 40)].concat(),
        [proven(), say(0, &[9, 0, 2]), say(0, &[3, 0, 0]), say(1, &[6, 0, 1]), pass(3, 25)].concat(),
        [proven(), say(0, &[9, 0, 0]), say(1, &[5, 0, 1])].concat(),
        [proven(), vec![2, 1], say(0, &[8, 0, 48]), say(0, &[3, 0, 0])].concat(),
        [code(), say(1, &[5, 0, 2]), say(0, &[4, 0]), say(0, &[2, 0, 0])].concat(),
        [two(), join(0), up(1, 1), join(1), up(2, 1), say(0, &[11, 0, 0]), up(1, 0)].concat(),
        [two(), vec![4, 0, 1, 0, 9, 1], vec![4, 1, 1, 2, 7, 0, 0, 0, 1], pass(3, 4)].concat(),
        [two(), (0..12).flat_map(|_| say(0, &[1, 0])).collect(), pass(3, 30)].concat(),
        [begin(), crowd, pass(3, 3)].concat(),
        [met(), ask(0, 1, 3), ask(1, 1, 4), see(0, 3, 7), see(1, 4, 8), pass(1, 9)].concat(),
        [met(), see(1, 4, 8), ask(1, 1, 4), ask(0, 1, 3), see(0, 3, 7), ask(0, 2, 5), ask(1, 3, 6)].concat(),
        [met(), (0..9).flat_map(|n| say(n % 2, &[10, 0, 2, n / 2])).collect()].concat(),
    ]
}
