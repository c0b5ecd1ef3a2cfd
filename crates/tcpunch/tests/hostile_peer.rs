//! Strangers at the port, and peers that misbehave once they are known: each over loopback, against the library.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect is to fail"
)]

mod raw;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use raw::{Broker, Events, RawLane, RawPeer, address, all, hears, knock, meet, says, soon};
use tcpunch::{Connection, Endpoint, InviteNews, Lost, Verb};
use tcpunch_core::limits::{
    CLAIMS_PER_ADDRESS, CLOSE_WITHIN, MAX_RECORD, UNKNOWN_ACCEPTED, UNKNOWN_ACCEPTED_PER_ADDRESS,
    WINDOW_FIRST, WINDOW_MOST,
};
use tcpunch_core::secure::{Kind, OVERHEAD};
use tcpunch_core::wire::{About, FromBroker, Refusal, ToBroker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection of the library to a peer in the hands of the test.
async fn victim() -> (Connection, RawLane, Endpoint, Broker) {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint().await;
    let (connection, lane) = caught(&broker, &endpoint).await;
    (connection, lane, endpoint, broker)
}

async fn caught(broker: &Broker, endpoint: &Endpoint) -> (Connection, RawLane) {
    let mut invite = soon("a code", endpoint.invite()).await.unwrap();
    let code = invite.code().clone();
    let hostile = async {
        let mut peer = RawPeer::register(broker.at, "127.0.0.2").await;
        peer.arrive(&code, Verb::Connect).await.lane().await
    };
    let (connection, lane) = soon("a meeting", async { tokio::join!(invite.accept(), hostile) }).await;
    (connection.unwrap(), lane)
}

/// The connection ends because the peer broke the rules, and the application hears `before` and then an error.
async fn ends_as_forged(connection: &Connection, before: &[u8]) {
    let (heard, result) = all(connection).await;
    assert_eq!(heard, before);
    assert_eq!(result.expect_err("a clean end").kind(), io::ErrorKind::InvalidData);
    assert_eq!(connection.lost(), Some(Lost::Forged));
}

// --- Strangers at the port ---

/// Whether the other end still holds this connection, having said nothing.
async fn is_held(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match timeout(Duration::from_millis(2), stream.read(&mut byte)).await {
        Err(_) => true,
        Ok(Ok(0) | Err(_)) => false,
        Ok(Ok(_)) => panic!("a stranger was told something"),
    }
}

#[tokio::test]
async fn a_thousand_strangers_hold_few_places_and_prevent_no_meeting() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let mut strangers = Vec::new();
    for number in 0..1000_u16 {
        // Some addresses come once, one comes hundreds of times.
        let [high, low] = if number % 2 == 0 { number.to_be_bytes() } else { [9, 9] };
        let from = IpAddr::V4(Ipv4Addr::new(127, 7, high, low));
        let mut stranger = knock(from, one.port()).await.unwrap();
        if number % 3 == 0 {
            stranger.write_all(&[7; 20]).await.unwrap();
        }
        strangers.push((from, stranger));
    }
    // What is not held is closed at once, long before its time is over.
    let mut held = Vec::new();
    for (from, stranger) in &mut strangers {
        if is_held(stranger).await {
            held.push(*from);
        }
    }
    assert!((1..=UNKNOWN_ACCEPTED).contains(&held.len()), "{} are held", held.len());
    let crowd = held.iter().filter(|from| **from == IpAddr::V4(Ipv4Addr::new(127, 7, 9, 9))).count();
    assert!(crowd <= UNKNOWN_ACCEPTED_PER_ADDRESS, "{crowd} from one address are held");
    let (waiter, arriver) = meet(&one, &two).await;
    says(&arriver, b"among ourselves").await;
    hears(&waiter, b"among ourselves").await;
}

#[tokio::test]
async fn strangers_who_come_without_end_prevent_no_meeting() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let ports = [one.port(), two.port()];
    let flood = tokio::spawn(async move {
        let mut recent = std::collections::VecDeque::new();
        for number in 0_u32.. {
            let [_, _, high, low] = number.to_be_bytes();
            let from = IpAddr::V4(Ipv4Addr::new(127, 8, high, low));
            if let Ok(stranger) = knock(from, ports[number as usize % 2]).await {
                recent.push_back(stranger);
            }
            if recent.len() > 500 {
                recent.pop_front();
            }
        }
    });
    for round in 0..5 {
        let (waiter, arriver) = meet(&one, &two).await;
        says(&arriver, &[round]).await;
        hears(&waiter, &[round]).await;
    }
    assert!(!flood.is_finished());
    flood.abort();
}

/// What passed on a good lane is worth nothing on another connection of the same introduction, nor of a later one.
#[tokio::test]
async fn a_recorded_lane_played_back_opens_nothing() {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint().await;
    let mut invite = endpoint.invite().await.unwrap();
    let code = invite.code().clone();
    // It controls, so that the endpoint waits for it to choose a lane.
    let mut peer = RawPeer::register_where(broker.at, "127.0.0.2", |key| *key > endpoint.key()).await;
    let (connection, recorded) = soon("a meeting", async {
        tokio::join!(invite.accept(), async {
            let meeting = peer.arrive(&code, Verb::Connect).await;
            let mut first = meeting.open(false).await;
            meeting.read_head(&mut first).await.unwrap();
            first.record(Kind::Ack, &[]).await;
            assert_eq!(first.hear().await.unwrap().0, Kind::Ack, "the lane has verified");
            let mut recorded = first.sent.clone();
            let mut nominating = first.seal(Kind::Nominate, &[]);
            nominating.extend(first.seal(Kind::Data, b"said once"));
            recorded.extend_from_slice(&nominating);
            // Everything that will be said on the lane comes first on a copy: it must not win.
            let mut copy = knock(meeting.from, endpoint.port()).await.unwrap();
            copy.write_all(&recorded).await.unwrap();
            let mut answer = Vec::new();
            let _ = soon("the copy's end", copy.read_to_end(&mut answer)).await;
            first.write(&nominating).await;
            (first, recorded)
        })
    })
    .await;
    let connection = connection.unwrap();
    let (_first, recorded) = recorded;
    hears(&connection, b"said once").await;

    // Of a later introduction: as it was, and with the tag that everybody on the way sees.
    let mut invite = endpoint.invite().await.unwrap();
    let code = invite.code().clone();
    let (later, ()) = soon("a later meeting", async {
        tokio::join!(invite.accept(), async {
            let meeting = peer.arrive(&code, Verb::Connect).await;
            let mut as_it_was = knock(meeting.from, endpoint.port()).await.unwrap();
            as_it_was.write_all(&recorded).await.unwrap();
            assert!(is_held(&mut as_it_was).await, "an unknown tag is not answered");
            let mut retagged = recorded.clone();
            retagged[..16].copy_from_slice(&meeting.tag());
            let mut copy = knock(meeting.from, endpoint.port()).await.unwrap();
            copy.write_all(&retagged).await.unwrap();
            let _ = soon("the copy's end", copy.read_to_end(&mut Vec::new())).await;
            let mut lane = meeting.lane().await;
            lane.record(Kind::Nominate, &[]).await;
            lane.record(Kind::Data, b"said anew").await;
            lane.record(Kind::End, &[]).await;
        })
    })
    .await;
    let (heard, end) = all(&later.unwrap()).await;
    assert_eq!(heard, b"said anew");
    end.unwrap();
}

// --- Peers that are known, and misbehave ---

#[tokio::test]
async fn false_lengths_end_the_connection() {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint().await;
    for length in [0, 1, 16, (MAX_RECORD + 18) as u32, u32::MAX] {
        let (connection, mut lane) = caught(&broker, &endpoint).await;
        lane.record(Kind::Data, b"good").await;
        hears(&connection, b"good").await;
        lane.write(&length.to_be_bytes()).await;
        ends_as_forged(&connection, b"").await;
    }
}

#[tokio::test]
async fn a_record_that_comes_twice_ends_the_connection() {
    let (connection, mut lane, ..) = victim().await;
    let record = lane.seal(Kind::Data, b"once");
    lane.write(&record).await;
    hears(&connection, b"once").await;
    lane.write(&record).await;
    ends_as_forged(&connection, b"").await;
}

#[tokio::test]
async fn more_than_the_credit_ends_the_connection() {
    let (connection, mut lane, ..) = victim().await;
    let chunk = vec![7; MAX_RECORD];
    for _ in 0..WINDOW_FIRST as usize / MAX_RECORD {
        lane.record(Kind::Data, &chunk).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(connection.lost(), None, "what is within the credit is taken");
    lane.record(Kind::Data, b"x").await;
    let lost = async {
        while connection.lost().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the end", lost).await;
    assert_eq!(connection.traffic().0, u64::from(WINDOW_FIRST), "nothing beyond is kept");
    ends_as_forged(&connection, &vec![7; WINDOW_FIRST as usize]).await;
}

#[tokio::test]
async fn more_credit_than_there_is_ends_the_connection() {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint().await;
    for grants in [vec![u32::MAX], vec![WINDOW_MOST; 3]] {
        let (connection, mut lane) = caught(&broker, &endpoint).await;
        for grant in grants {
            lane.record(Kind::Credit, &grant.to_be_bytes()).await;
        }
        ends_as_forged(&connection, b"").await;
    }
}

#[tokio::test]
async fn control_records_of_another_form_end_the_connection() {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint().await;
    let cases: [(Kind, &[u8]); 5] = [
        (Kind::Credit, b"123"),
        (Kind::Ping, b"1234567"),
        (Kind::Ping, b"123456789"),
        (Kind::Pong, b""),
        (Kind::Confirm, &[1]),
    ];
    for (kind, payload) in cases {
        let (connection, mut lane) = caught(&broker, &endpoint).await;
        lane.record(kind, payload).await;
        ends_as_forged(&connection, b"").await;
    }
}

#[tokio::test]
async fn a_second_end_and_data_after_the_end_are_no_clean_end() {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint().await;
    for (kind, payload) in [(Kind::End, &b""[..]), (Kind::Data, b"more"), (Kind::Data, b"")] {
        let (connection, mut lane) = caught(&broker, &endpoint).await;
        let mut records = lane.seal(Kind::Data, b"all");
        records.extend(lane.seal(Kind::End, b""));
        lane.write(&records).await;
        assert_eq!(all(&connection).await.0, b"all");
        lane.record(kind, payload).await;
        let closed = soon("closing", connection.close()).await;
        assert_eq!(closed.expect_err("a clean end").kind(), io::ErrorKind::InvalidData, "{kind:?}");
        assert_eq!(connection.lost(), Some(Lost::Forged));
    }
}

/// Records that say nothing cost nothing, and do not hide the ones that do.
#[tokio::test]
async fn empty_records_are_of_no_consequence() {
    let (connection, mut lane, ..) = victim().await;
    for kind in [Kind::Data, Kind::Nominate, Kind::Ack] {
        for _ in 0..500 {
            lane.record(kind, &[]).await;
        }
    }
    lane.record(Kind::Data, b"at last").await;
    lane.record(Kind::End, &[]).await;
    let (heard, end) = all(&connection).await;
    assert_eq!(heard, b"at last");
    end.unwrap();
}

/// Who asks without end and does not read is not answered without end.
#[tokio::test]
async fn pings_without_end_do_not_pile_up_answers() {
    let (connection, mut lane, ..) = victim().await;
    let count = 1_500_000_u64;
    let mut pings = Vec::new();
    for number in 0..count {
        lane.sealer.seal(Kind::Ping, &number.to_be_bytes(), &mut pings).unwrap();
    }
    soon("room for pings", lane.stream.write_all(&pings)).await.unwrap();
    lane.record(Kind::Data, b"read me").await;
    hears(&connection, b"read me").await;
    // All pings are read by now. What comes is what was kept: the kernel's part, and what the connection holds.
    let mut answers = 0;
    while let Ok(Some((kind, _))) = timeout(Duration::from_millis(500), lane.hear()).await {
        answers += u64::from(kind == Kind::Pong);
    }
    let kept = answers * (8 + OVERHEAD as u64);
    assert!(answers > 0);
    assert!(answers < count, "every one of {count} pings was answered: {kept} bytes were kept");
    says(&connection, b"still here").await;
    let heard = soon("data", async {
        loop {
            if let Some((Kind::Data, payload)) = lane.hear().await {
                return payload;
            }
        }
    });
    assert_eq!(heard.await, b"still here");
}

/// Who goes on asking, has said its end and never reads holds neither who closes nor what was dropped.
#[tokio::test]
async fn pings_without_end_hold_no_connection_that_is_over() {
    let (connection, mut lane, ..) = victim().await;
    let mut pings = Vec::new();
    for number in 0..500_000_u64 {
        lane.sealer.seal(Kind::Ping, &number.to_be_bytes(), &mut pings).unwrap();
    }
    soon("room for pings", lane.stream.write_all(&pings)).await.unwrap();
    lane.record(Kind::End, &[]).await;
    let flushed = timeout(Duration::from_millis(700), (&connection).flush()).await;
    assert!(flushed.is_err(), "the answers do not fill what the kernel takes: {flushed:?}");
    let asking = tokio::spawn(async move {
        loop {
            let ping = lane.seal(Kind::Ping, &[7; 8]);
            if lane.stream.write_all(&ping).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let began = Instant::now();
    let closed = soon("closing", connection.close()).await;
    assert_eq!(closed.expect_err("a clean end").kind(), io::ErrorKind::TimedOut);
    assert!(began.elapsed() < 2 * CLOSE_WITHIN, "{:?}", began.elapsed());
    let dropped = Instant::now();
    drop(connection);
    soon("the socket's end", asking).await.unwrap();
    assert!(dropped.elapsed() < 3 * CLOSE_WITHIN, "{:?}", dropped.elapsed());
}

/// However much credit it grants: who never reads stops the writer.
#[tokio::test]
async fn a_peer_that_never_reads_stops_the_writer() {
    let (connection, mut lane, ..) = victim().await;
    lane.record(Kind::Credit, &WINDOW_MOST.to_be_bytes()).await;
    let bytes = vec![7; MAX_RECORD];
    let mut taken = 0;
    // Until nothing moves for a while.
    while let Ok(written) = timeout(Duration::from_millis(700), (&connection).write(&bytes)).await {
        taken += written.unwrap();
    }
    let granted = (WINDOW_FIRST + WINDOW_MOST) as usize;
    assert!(taken < granted / 2, "{taken} of {granted} bytes were taken, and nobody read one");
    // All of it is there once it is read.
    let mut heard = 0;
    while heard < taken {
        match soon("a record", lane.hear()).await {
            Some((Kind::Data, payload)) => heard += payload.len(),
            Some(_) => {}
            None => panic!("cut off"),
        }
    }
    assert_eq!(heard, taken);
}

/// Every byte at which the last records can be cut: nothing of a cut record is delivered, and it is never a clean end.
#[tokio::test]
async fn a_stream_cut_at_any_byte_is_truncated() {
    let broker = Broker::start().await;
    let endpoint = broker.endpoint().await;
    let last = b"last";
    let data = last.len() + OVERHEAD;
    let whole = data + OVERHEAD;
    for cut in 0..=whole {
        let (connection, mut lane) = caught(&broker, &endpoint).await;
        lane.record(Kind::Data, b"first ").await;
        let mut records = lane.seal(Kind::Data, last);
        records.extend(lane.seal(Kind::End, &[]));
        assert_eq!(records.len(), whole);
        lane.write(&records[..cut]).await;
        drop(lane.stream.shutdown().await);
        let (heard, end) = all(&connection).await;
        let expected: &[u8] = if cut < data { b"first " } else { b"first last" };
        assert_eq!(heard, expected, "cut at {cut}");
        match end {
            Ok(()) => assert_eq!(cut, whole),
            Err(error) => {
                assert!(cut < whole);
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
                assert_eq!(connection.lost(), Some(Lost::Truncated));
            }
        }
    }
}

/// Where a peer says that it can be reached too: not outside the networks of this machine, nor at the system's ports.
#[tokio::test]
async fn a_peer_can_not_send_another_to_dial_third_parties() {
    let broker = Broker::start().await;
    let events = Events::default();
    let endpoint = events.watch(broker.builder()).bind().await.unwrap();
    let lists = [
        ["8.8.8.8:5000", "198.51.100.9:5000", "[::ffff:8.8.4.4]:5000", "[2001:db8::9]:5000"],
        ["127.0.0.1:22", "192.168.1.1:22", "10.0.0.1:22", "169.254.169.254:22"],
        ["224.0.0.1:5000", "255.255.255.255:5000", "0.0.0.0:5000", "240.0.0.1:5000"],
    ];
    let mut doors = Vec::new();
    for hosts in lists {
        let mut invite = soon("a code", endpoint.invite()).await.unwrap();
        let code = invite.code().clone();
        let mut peer = RawPeer::register(broker.at, "127.0.0.2").await;
        let (connection, door) = soon("a meeting", async {
            tokio::join!(invite.accept(), async {
                let door = peer.door();
                let meeting = peer.arrive_with(&code, Verb::Connect, hosts.map(address).to_vec()).await;
                // Time for every lane's first SYN.
                tokio::time::sleep(Duration::from_millis(100)).await;
                meeting.lane().await;
                door
            })
        })
        .await;
        connection.unwrap();
        doors.push(door);
        let fired = events.fired();
        assert!(fired.contains(&door));
        // All go to the port that the broker saw, none to one that the peer named.
        let seen = |to: &SocketAddr| doors.iter().any(|door| door.port() == to.port());
        assert!(fired.iter().all(seen), "{fired:?}");
    }
}

/// What was sealed for a socket that broke is gone: nobody is told that it was sent.
#[tokio::test]
async fn after_a_reset_nothing_counts_as_sent() {
    let (connection, mut lane, ..) = victim().await;
    says(&connection, b"never read").await;
    while lane.hear().await.is_some_and(|(kind, _)| kind != Kind::Ping) {}
    soon("data", lane.stream.readable()).await.unwrap();
    // With bytes unread the kernel resets it.
    drop(lane);
    let lost = async {
        while connection.lost().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the end", lost).await;
    assert!(matches!(connection.lost(), Some(Lost::Broken(_))), "{:?}", connection.lost());
    for result in [(&connection).flush().await, (&connection).shutdown().await, connection.close().await] {
        assert_eq!(result.expect_err("it was sent").kind(), io::ErrorKind::ConnectionReset);
    }
}

// --- Codes ---

/// Who claims a code and proves nothing learns no address, burns nothing and keeps nobody out.
#[tokio::test]
async fn a_number_claimed_without_a_proof_holds_nobody_up() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let mut invite = one.invite().await.unwrap();
    let code = invite.code().clone();
    let mut silent = Vec::new();
    for number in 0..20 {
        let mut stranger = RawPeer::register(broker.at, &format!("127.0.3.{number}")).await;
        stranger.claim(&code, Verb::Connect).await;
        silent.push(stranger);
    }
    let (waiter, arriver) = soon("a meeting", async {
        tokio::join!(
            async {
                assert!(matches!(invite.news().await, InviteNews::Introduced));
                match invite.news().await {
                    InviteNews::Ended(result) => result,
                    other => panic!("{other:?}"),
                }
            },
            two.connect(code.clone())
        )
    })
    .await;
    says(&waiter.unwrap(), b"x").await;
    hears(&arriver.unwrap(), b"x").await;
    for stranger in &mut silent {
        stranger.hear(|message| matches!(message, FromBroker::Refused { .. })).await;
        for message in &stranger.heard {
            assert!(
                matches!(
                    message,
                    FromBroker::Pong(0) | FromBroker::Claimed { .. } | FromBroker::Refused { .. }
                ),
                "{message:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_thousand_numbers_tried_are_limited_and_spoil_no_code() {
    let broker = Broker::start().await;
    let (one, two) = (broker.endpoint().await, broker.endpoint().await);
    let mut invite = one.invite().await.unwrap();
    let code = invite.code().clone();
    let began = std::time::Instant::now();
    let mut answered = 0;
    for first in (100..1100).step_by(50) {
        // One link alone would be slowed down.
        let mut guesser = RawPeer::register(broker.at, "127.0.0.9").await;
        for number in first..first + 50 {
            guesser.link.say(&ToBroker::Claim { number, verb: Verb::Connect }).await;
            match guesser.hear(|_| true).await {
                FromBroker::Refused { about: About::Claim(_), refusal: Refusal::TooMany } => {}
                _ => answered += 1,
            }
        }
    }
    let later = began.elapsed().div_duration_f64(CLAIMS_PER_ADDRESS.every) as u32 + 1;
    assert!(answered <= CLAIMS_PER_ADDRESS.burst + later, "{answered} numbers were answered");
    let (waiter, arriver) =
        soon("a meeting", async { tokio::join!(invite.accept(), two.connect(code)) }).await;
    says(&waiter.unwrap(), b"x").await;
    hears(&arriver.unwrap(), b"x").await;
}
