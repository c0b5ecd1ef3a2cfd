//! Any two networks, any rounds and words, any kernel and any peer.

use std::collections::BTreeSet;

use super::*;
use crate::limits::{BIRTHDAY_SPREAD, REFIRES_OF_VOLLEY};

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Go,
    Lane(u8, Kind),
    Dialled(usize, Dialled),
    Accept(u8),
    Verify(usize, bool),
    Nominate(usize),
    Fail(usize),
    Profiles(NatProfile, NatProfile),
    Wanted(u8),
    Round(u8, u16),
    Said(u8, Word),
}

fn behaviour() -> impl Generated<Value = Behaviour> {
    prop_oneof![
        Just(Behaviour::Unknown),
        Just(Behaviour::EndpointIndependent),
        Just(Behaviour::PortIndependent),
        Just(Behaviour::AddressAndPortDependent),
    ]
}

fn profile() -> impl Generated<Value = NatProfile> {
    let allocation = prop_oneof![
        Just(Allocation::Unknown),
        Just(Allocation::Preserving),
        Just(Allocation::Random),
        any::<i16>().prop_map(Allocation::Stepping),
        any::<(u16, u16)>().prop_map(|(first, last)| Allocation::Block { first, last }),
        (1024u16..60_000, 0u16..5000)
            .prop_map(|(first, more)| Allocation::Block { first, last: first.saturating_add(more) }),
    ];
    let refusal = prop_oneof![Just(Refusal::Unknown), Just(Refusal::Drop), Just(Refusal::Reset)];
    (behaviour(), allocation, behaviour(), refusal).prop_map(|(mapping, allocation, filtering, refusal)| {
        NatProfile { mapping, allocation, filtering, refusal, ..easy(refusal) }
    })
}

fn event() -> impl Generated<Value = Event> {
    let outcome = prop_oneof![
        Just(Dialled::Connected),
        Just(Dialled::Refused),
        Just(Dialled::Unreachable),
        Just(Dialled::InUse),
        Just(Dialled::NoRoute),
        Just(Dialled::NoDescriptor),
        Just(Dialled::TimedOut),
    ];
    let kind =
        prop_oneof![Just(Kind::Reflexive), Just(Kind::Host), Just(Kind::Predicted), Just(Kind::Mapped)];
    let socket = 0usize..2000;
    prop_oneof![
        (0u64..400).prop_map(Event::Pass),
        Just(Event::Go),
        (0u8..30, kind).prop_map(|(n, kind)| Event::Lane(n, kind)),
        (socket.clone(), outcome).prop_map(|(n, outcome)| Event::Dialled(n, outcome)),
        (0u8..30).prop_map(Event::Accept),
        (socket.clone(), any::<bool>()).prop_map(|(n, yes)| Event::Verify(n, yes)),
        socket.clone().prop_map(Event::Nominate),
        socket.prop_map(Event::Fail),
        (profile(), profile()).prop_map(|(own, peer)| Event::Profiles(own, peer)),
        (0u8..6).prop_map(Event::Wanted),
        (0u8..6, any::<u16>()).prop_map(|(round, port)| Event::Round(round, port)),
        (0u8..6, prop_oneof![Just(Word::Ready), Just(Word::Fired)])
            .prop_map(|(round, word)| Event::Said(round, word)),
    ]
}

proptest! {
    #[test]
    fn between_any_networks_it_finishes_once_in_time_and_leaves_no_socket_open(
        controlling: bool,
        strangers: bool,
        sockets in 0usize..2000,
        own in profile(),
        peer in profile(),
        events in proptest::collection::vec(event(), 0..60),
    ) {
        let avoid = vec![remote(3)];
        let config = Config { strangers, sockets, avoid, ..config(controlling, 30 * MS, own, peer) };
        let mut rig = Rig::of(config);
        // Dials whose end was not told yet, and sockets that the peer brought.
        let (mut ended, mut named) = (BTreeSet::new(), Vec::new());
        for event in events {
            let dials = rig.dials();
            let some = |n: usize| dials.iter().chain(&named).nth(n % (dials.len() + named.len()).max(1)).copied();
            match event {
                Event::Pass(ms) => rig.until(rig.now + ms as u32 * MS),
                Event::Go => rig.input(Input::Go),
                Event::Lane(n, kind) => rig.input(Input::Candidate(Candidate { address: remote(n), kind })),
                Event::Dialled(n, outcome) => {
                    if let Some(socket) = dials.get(n % dials.len().max(1)) && ended.insert(*socket) {
                        rig.dialled(*socket, outcome);
                    }
                }
                Event::Accept(n) => {
                    let socket = rig.puncher.name_socket();
                    named.push(socket);
                    rig.input(Input::Accepted { socket, remote: remote(n) });
                }
                Event::Verify(n, nominated) => {
                    if let Some(socket) = some(n) {
                        rig.input(Input::Verified { socket, nominated });
                    }
                }
                Event::Nominate(n) => {
                    if let Some(socket) = some(n) {
                        rig.input(Input::Nominated { socket });
                    }
                }
                Event::Fail(n) => {
                    if let Some(socket) = some(n).filter(|socket| ended.contains(socket) || named.contains(socket)) {
                        rig.outputs.push(Output::Close { socket });
                        rig.input(Input::Failed { socket });
                    }
                }
                Event::Profiles(own, peer) => rig.input(Input::Profiles { own, peer }),
                Event::Wanted(round) => rig.input(Input::RoundWanted { round }),
                Event::Round(round, port) => {
                    let address = SocketAddr::new(remote(1).ip(), port);
                    let candidates = vec![Candidate { address, kind: Kind::Reflexive }];
                    rig.input(Input::Round { round, candidates });
                }
                Event::Said(round, word) => rig.input(Input::PeerSays { round, word }),
            }
            if rig.finished().is_some() {
                break;
            }
        }
        rig.until(rig.start + Duration::from_secs(16));
        let finished = rig.finished().unwrap().clone();
        let ends = rig.outputs.iter().filter(|output| matches!(output, Output::Finished(_))).count();
        prop_assert_eq!(ends, 1);
        prop_assert!(matches!(rig.outputs.last(), Some(Output::Finished(_))), "nothing comes after the end");
        let (mut open, mut opened, mut shots) = (BTreeSet::new(), Vec::new(), 0);
        for output in &rig.outputs {
            match output {
                Output::Dial { socket, origin, remote: to, many } => {
                    open.insert(*socket);
                    shots += usize::from(*many);
                    prop_assert!(!many || *to != remote(3), "nothing is fired at who is no peer");
                    prop_assert!(!many || to.port() >= 1024);
                    prop_assert!(!matches!(origin, Origin::Round(round) if *round >= ROUNDS));
                }
                Output::Authenticate { socket, .. } => {
                    open.insert(*socket);
                }
                Output::Close { socket } => {
                    open.remove(socket);
                }
                Output::Open { round, .. } => opened.push(*round),
                Output::Tell { .. } | Output::Release { .. } | Output::Nominate { .. } | Output::Wait(_) | Output::Finished(_) => {}
            }
        }
        open.retain(|socket| Some(*socket) != finished.winner.map(|winner| winner.socket));
        prop_assert!(open.is_empty(), "left open: {:?}", open);
        prop_assert!(opened.windows(2).all(|pair| pair[0] < pair[1]), "each round once: {:?}", opened);
        prop_assert!(opened.iter().all(|round| (1..ROUNDS).contains(round)) && finished.rounds <= ROUNDS);
        let most = BIRTHDAY_SPREAD.1 + REFIRES_OF_VOLLEY;
        // What was no SYN was taken back.
        prop_assert!(shots <= usize::from(most) + ended.len());
        let fired: u32 = finished.volleys.iter().map(|volley| volley.syns).sum();
        let dialled: u32 = finished.lanes.iter().map(|lane| lane.syns).sum();
        prop_assert!(fired <= most.into() && dialled <= SYNS_PER_ATTEMPT);
        prop_assert_eq!(finished.syns, fired + dialled);
        if strangers {
            prop_assert_eq!(shots, 0, "not among strangers");
        }
    }
}
