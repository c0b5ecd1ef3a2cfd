//! The words that members of the open lobby compare: with an honest broker, with one in the middle, and with members
//! that do not play by the rules.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect is to fail"
)]

#[path = "../../tcpunch/tests/raw/mod.rs"]
mod raw;

use std::time::Duration;

use rand::SeedableRng;
use raw::{
    Broker, Meeting, RawBroker, RawLane, RawPeer, Served, address, answer_opener, builder_at, fresh_key,
    introduction, soon,
};
use serde::{Deserialize, Serialize};
use tcpunch::{ConnectError, Endpoint, PublicKey};
use tcpunch_apps::chat::{self, ChatEnd, ChatEvent, Input, Room};
use tcpunch_core::secure::{Committed, Comparison, Kind};
use tcpunch_core::wire::{FromBroker, Met};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What members say to each other, as docs/protocol.md has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Frame {
    Hello { name: String },
    Line { text: String },
    Commit([u8; 32]),
    Reveal([u8; 32]),
}

fn hello(name: &str) -> Frame {
    Frame::Hello { name: name.to_owned() }
}

fn line(text: &str) -> Frame {
    Frame::Line { text: text.to_owned() }
}

/// A member that plays by the rules.
struct Chat {
    typed: mpsc::Sender<Input>,
    events: mpsc::UnboundedReceiver<ChatEvent>,
    run: JoinHandle<Result<ChatEnd, ConnectError>>,
}

impl Chat {
    fn join(endpoint: &Endpoint, name: &str) -> Self {
        let (typed, lines) = mpsc::channel(16);
        let (sender, events) = mpsc::unbounded_channel();
        let (room, name) = (Room::Lobby(endpoint.lobby()), name.to_owned());
        let run = tokio::spawn(async move {
            let told = |event| drop(sender.send(event));
            chat::run(room, &name, lines, Duration::from_secs(10), told).await
        });
        Chat { typed, events, run }
    }

    async fn says(&self, text: &str) {
        self.typed.send(Input::Line(text.to_owned())).await.unwrap();
    }

    async fn until<T>(&mut self, what: &str, wanted: impl Fn(&ChatEvent) -> Option<T>) -> T {
        soon(what, async {
            loop {
                let event = self.events.recv().await.expect("the chat goes on");
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        })
        .await
    }

    async fn words(&mut self) -> (PublicKey, String) {
        self.until("words", |event| match event {
            ChatEvent::Words { peer, words, .. } => Some((*peer, words.clone())),
            ChatEvent::Gone { lost, .. } => panic!("{lost:?}"),
            _ => None,
        })
        .await
    }

    async fn hears(&mut self, wanted: &str) {
        self.until("a line", |event| match event {
            ChatEvent::Line { text, .. } if text == wanted => Some(()),
            _ => None,
        })
        .await;
    }

    /// Why a member was lost, words not having been told.
    async fn lost(&mut self) -> String {
        self.until("a loss", |event| match event {
            ChatEvent::Gone { lost, .. } => Some(lost.clone().unwrap()),
            ChatEvent::Words { words, .. } => panic!("{words}"),
            _ => None,
        })
        .await
    }
}

/// A lane on which frames are said and heard.
struct Member {
    lane: RawLane,
    meeting: Meeting,
    input: Vec<u8>,
}

impl Member {
    async fn at(meeting: Meeting) -> Self {
        Member { lane: meeting.lane().await, meeting, input: Vec::new() }
    }

    async fn says(&mut self, frame: &Frame) {
        let body = postcard::to_allocvec(frame).unwrap();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        self.lane.record(Kind::Data, &[&length[..], &body].concat()).await;
    }

    async fn hears(&mut self) -> Frame {
        loop {
            if let Some(length) =
                self.input.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize)
                && self.input.len() >= 4 + length
            {
                let frame = postcard::from_bytes(&self.input[4..4 + length]).unwrap();
                self.input.drain(..4 + length);
                return frame;
            }
            match soon("a record", self.lane.hear()).await {
                Some((Kind::Data, payload)) => self.input.extend(payload),
                Some((Kind::Ping, number)) => self.lane.record(Kind::Pong, &number).await,
                Some(_) => {}
                None => panic!("cut off"),
            }
        }
    }

    fn comparison(&self) -> Comparison {
        let Meeting { own, introduction, keys, .. } = &self.meeting;
        let mut rng = rand_chacha::ChaCha20Rng::from_os_rng();
        Comparison::new(&keys.channel_binding(), own, &introduction.peer, &mut rng)
    }

    /// Compares as it should; what it gets is held against the number that comes.
    async fn compares(&mut self) -> Committed {
        let own = self.comparison();
        self.says(&Frame::Commit(own.commitment())).await;
        let theirs = match self.hears().await {
            Frame::Commit(theirs) => theirs,
            other => panic!("{other:?}"),
        };
        let (committed, nonce) = own.committed(theirs);
        self.says(&Frame::Reveal(nonce)).await;
        committed
    }

    async fn words(&mut self, committed: Committed) -> String {
        match self.hears().await {
            Frame::Reveal(nonce) => committed.words(&nonce).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn both_ends_of_a_direct_connection_get_the_same_words() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let mut ann = Chat::join(&one, "ann");
    ann.until("the lobby", |event| matches!(event, ChatEvent::Waiting).then_some(())).await;
    let mut ben = Chat::join(&two, "ben");
    let (seen_by_ann, seen_by_ben) = (ann.words().await, ben.words().await);
    assert_eq!((seen_by_ann.0, seen_by_ben.0), (two.key(), one.key()));
    assert_eq!(seen_by_ann.1, seen_by_ben.1);
    assert_eq!(seen_by_ann.1.split(' ').count(), 2);
}

// --- A broker in the middle ---

/// A member that the broker made up, connected to who has just joined.
async fn passes_for_a_member(link: &mut Served, endpoint: &Endpoint) -> Member {
    let opener = link.joined().await.remove(0);
    let member = fresh_key();
    // Nobody listens where it is said to be: it comes by itself.
    let told =
        introduction(1, member.public(), &[address("127.0.0.1:1025")], Met::LobbyArriver { opener: 0 });
    link.say(FromBroker::Joined { members: 1, capacity: 16, introductions: 1 }).await;
    link.say(FromBroker::Introduced(told.clone())).await;
    let mut meeting = answer_opener(&member, &told, &opener, endpoint.key());
    meeting.introduction.addresses = vec![address(&format!("127.0.0.1:{}", endpoint.port()))];
    Member::at(meeting).await
}

/// Two honest members, and a broker that sits between them in place of each.
async fn in_the_middle() -> ([Chat; 2], [Member; 2], [Endpoint; 2], [Served; 2]) {
    let broker = RawBroker::start().await;
    let (one, mut to_one) = broker.endpoint(builder_at(broker.at), None).await;
    let (two, mut to_two) = broker.endpoint(builder_at(broker.at), None).await;
    let (ann, ben) = (Chat::join(&one, "ann"), Chat::join(&two, "ben"));
    let as_ben = passes_for_a_member(&mut to_one, &one).await;
    let as_ann = passes_for_a_member(&mut to_two, &two).await;
    ([ann, ben], [as_ben, as_ann], [one, two], [to_one, to_two])
}

/// It can read what is said, and it can take part in both comparisons: their words differ.
#[tokio::test]
async fn a_broker_in_the_middle_makes_the_words_differ() {
    let ([mut ann, mut ben], [mut as_ben, mut as_ann], _endpoints, _links) = in_the_middle().await;
    for (near, far) in [(&mut as_ben, "ben"), (&mut as_ann, "ann")] {
        near.says(&hello(far)).await;
        assert!(matches!(near.hears().await, Frame::Hello { .. }));
    }
    let (first, second) = (as_ben.compares().await, as_ann.compares().await);
    let (first, second) = (as_ben.words(first).await, as_ann.words(second).await);
    assert_eq!((ann.words().await.1, ben.words().await.1), (first.clone(), second.clone()));
    // By chance once in four million runs.
    assert_ne!(first, second);
    // Everything else looks as if they talked to each other.
    ann.says("can you hear me?").await;
    let heard = as_ben.hears().await;
    assert_eq!(heard, line("can you hear me?"));
    as_ann.says(&heard).await;
    ben.hears("can you hear me?").await;
}

/// Passing on what the two say of their comparison does not even get that far.
#[tokio::test]
async fn a_broker_that_passes_the_comparison_on_is_noticed_by_both() {
    let ([mut ann, mut ben], [mut as_ben, mut as_ann], _endpoints, _links) = in_the_middle().await;
    for _ in 0..3 {
        let (from_ann, from_ben) = (as_ben.hears().await, as_ann.hears().await);
        as_ann.says(&from_ann).await;
        as_ben.says(&from_ben).await;
    }
    for side in [&mut ann, &mut ben] {
        let lost = side.lost().await;
        assert!(lost.contains("not what it had committed to; somebody interferes"), "{lost}");
    }
}

// --- Members that do not play by the rules ---

/// A chat in the lobby of an honest broker, and a member in the hands of the test.
async fn with_a_member(name: &str) -> (Chat, Member, Endpoint, Broker) {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint().await;
    let mut chat = Chat::join(&endpoint, name);
    chat.until("the lobby", |event| matches!(event, ChatEvent::Waiting).then_some(())).await;
    let member = another_member(&broker).await;
    (chat, member, endpoint, broker)
}

async fn another_member(broker: &Broker) -> Member {
    let mut peer = RawPeer::register(broker.at, "127.0.0.2").await;
    Member::at(peer.join().await).await
}

#[tokio::test]
async fn another_number_than_the_committed_one_is_told_and_ends_it() {
    let (mut ann, mut member, ..) = with_a_member("ann").await;
    member.says(&hello("mallory")).await;
    let own = member.comparison();
    member.says(&Frame::Commit(own.commitment())).await;
    let (_, mut nonce) = own.committed([0; 32]);
    nonce[0] ^= 1;
    member.says(&Frame::Reveal(nonce)).await;
    let lost = ann.lost().await;
    assert!(lost.contains("somebody interferes"), "{lost}");
}

/// The own number stays a secret until the other side is bound to its own.
#[tokio::test]
async fn nothing_is_shown_to_who_has_not_committed() {
    let (mut ann, mut member, ..) = with_a_member("ann").await;
    member.says(&hello("mallory")).await;
    assert_eq!(member.hears().await, hello("ann"));
    assert!(matches!(member.hears().await, Frame::Commit(_)));
    ann.says("hello?").await;
    assert_eq!(member.hears().await, line("hello?"), "and nothing before");
    let lost = ann.lost().await;
    assert!(lost.contains("does not take part in the comparison"), "{lost}");
}

/// It shows that it lives, and takes nothing: who says much to the lobby waits for it, but not for ever, and the others
/// miss nothing.
#[tokio::test]
async fn who_takes_nothing_in_is_lost_and_the_others_hear_everything() {
    let (mut ann, mut stone, _endpoint, broker) = with_a_member("ann").await;
    stone.says(&hello("stone")).await;
    stone.hears().await;
    let committed = stone.compares().await;
    stone.words(committed).await;
    ann.words().await;
    let stone = tokio::spawn(async move {
        loop {
            stone.lane.record(Kind::Ping, &[0; 8]).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    let endpoint = broker.endpoint().await;
    let mut ben = Chat::join(&endpoint, "ben");
    ann.words().await;
    let typed = ann.typed.clone();
    tokio::spawn(async move {
        for number in 0..800 {
            let line = format!("{number} {}", "x".repeat(8000));
            typed.send(Input::Line(line)).await.unwrap();
        }
        typed.send(Input::End).await.unwrap();
    });
    for number in 0..800 {
        let start = format!("{number} ");
        let heard = async {
            loop {
                match ben.events.recv().await.expect("the chat goes on") {
                    ChatEvent::Line { text, .. } => break text,
                    ChatEvent::Gone { lost, .. } => panic!("{lost:?}"),
                    _ => {}
                }
            }
        };
        let heard = soon("a line", heard).await;
        assert!(heard.starts_with(&start), "{} instead of {start}", &heard[..10]);
    }
    let lost = ann.lost().await;
    assert!(lost.contains("took in nothing for 25 s"), "{lost}");
    match soon("the end", ann.run).await.unwrap().unwrap() {
        ChatEnd::Unheard { names, others } => assert_eq!((names, others), (vec!["stone".to_owned()], true)),
        other => panic!("{other:?}"),
    }
    stone.abort();
}

#[tokio::test]
async fn what_is_said_out_of_turn_ends_it() {
    let (mut ann, mut member, _endpoint, broker) = with_a_member("ann").await;
    let cases = [
        vec![line("before a hello")],
        vec![hello("a"), hello("b")],
        vec![hello("a"), Frame::Reveal([1; 32])],
        vec![hello("a"), Frame::Commit([1; 32]), Frame::Commit([2; 32])],
    ];
    for frames in cases {
        for frame in &frames {
            member.says(frame).await;
        }
        let lost = ann.lost().await;
        assert!(lost.contains("does not speak chat"), "{lost}");
        member = another_member(&broker).await;
    }
}
