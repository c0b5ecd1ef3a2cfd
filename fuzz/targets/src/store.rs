//! The files of the state directory, as an editor, a crash or another program may have left them.

use std::time::{Duration, SystemTime};

use tcpunch::store::{NetworkMemory, Remembered, Store, StoreError};
use tcpunch_core::limits::NETWORKS_REMEMBERED;
use tcpunch_core::profile::NatProfile;

const NAMES: [&str; 4] = ["identity.key", "broker.key", "known_brokers", "networks"];
const HEADERS: [&str; 4] =
    ["tcpunch-identity 1\n", "tcpunch-broker-key 1\n", "tcpunch-known-brokers 1\n", "tcpunch-networks 1\n"];
const BROKER: &str = "broker.example:7766";

pub(crate) fn run(bytes: &[u8]) {
    let Some((which, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let which = usize::from(*which) % NAMES.len();
    let store = Store::with_files([(NAMES[which], text.to_owned())]);
    if which == 2 {
        known_brokers(&store, text);
        return;
    }
    if which == 3 {
        networks(&store, text);
        return;
    }
    let mut fresh = || panic!("a file that is there is never replaced");
    let first = if which == 0 { store.identity(&mut fresh) } else { store.broker_key(&mut fresh) };
    let again = if which == 0 { store.identity(&mut fresh) } else { store.broker_key(&mut fresh) };
    match (first, again) {
        (Ok(first), Ok(again)) => {
            assert!(first == again);
            assert!(text.starts_with(HEADERS[which]));
        }
        (Err(StoreError::Damaged { .. }), Err(StoreError::Damaged { .. })) => {}
        (first, again) => panic!("{first:?}, then {again:?}"),
    }
    assert_eq!(store.file(NAMES[which]).as_deref(), Some(text));
}

fn known_brokers(store: &Store, text: &str) {
    let known = match store.known_broker(BROKER) {
        Ok(known) => known,
        Err(StoreError::Damaged { .. }) => {
            assert!(store.remember_broker(BROKER, [7; 32]).is_err());
            assert_eq!(store.file(NAMES[2]).as_deref(), Some(text), "what is damaged stays as it is");
            return;
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(store.known_broker("BROKER.example:7766").unwrap(), known, "letter case does not matter");
    let expected = match known {
        None => Remembered::New,
        Some(known) if known == [7; 32] => Remembered::Same,
        Some(known) => Remembered::Changed { known },
    };
    assert_eq!(store.remember_broker(BROKER, [7; 32]).unwrap(), expected);
    assert_eq!(store.known_broker(BROKER).unwrap(), Some(known.unwrap_or([7; 32])));
    let now = store.file(NAMES[2]).unwrap();
    assert!(now.starts_with(text), "lines are added behind what was there");
    assert_eq!(now == text, known.is_some());
}

fn networks(store: &Store, text: &str) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let recall = |network: &[u8]| store.recall_network(network, now, &mut || [7; 32]).unwrap();
    recall(b"home");
    assert_eq!(store.file(NAMES[3]).as_deref(), Some(text), "looking changes nothing");
    let told = store.take_notes();
    let memory =
        NetworkMemory { profile: NatProfile::default(), learnt: now, worked: None, connected: 1, failed: 2 };
    store.remember_network(b"home", now, &mut || [7; 32], |_| Some(memory)).unwrap();
    assert_eq!(recall(b"home"), Some(memory));
    let file = store.file(NAMES[3]).unwrap();
    assert!(file.starts_with(HEADERS[3]) && file.lines().count() <= 1 + NETWORKS_REMEMBERED, "{file}");
    // Told of each time, until it was put right; a file that is whole is nothing to tell of.
    assert!(told.len() <= 1 && store.take_notes() == told);
    // What was written is read back as it is.
    store.remember_network(b"home", now, &mut || [7; 32], |known| known).unwrap();
    assert_eq!(store.file(NAMES[3]).unwrap(), file);
    assert!(store.take_notes().is_empty());
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let key = "0a".repeat(32);
    let other = "07".repeat(32);
    let texts = [
        (0, format!("{}secret {key}\n", HEADERS[0])),
        (0, format!("{}note kept as it is\nsecret {key}\nsecret {key}\n", HEADERS[0])),
        (0, HEADERS[0].to_owned()),
        (1, format!("{}secret {key}\n", HEADERS[1])),
        (1, format!("{}secret {key}", HEADERS[1])),
        (2, HEADERS[2].to_owned()),
        (2, format!("{}broker {BROKER} {key}\nbroker b.example:1 {other}\n", HEADERS[2])),
        (2, format!("{}# a remark\nbroker {BROKER} {other}\n", HEADERS[2])),
        (2, format!("{}broker {BROKER} {other}\nbroker {BROKER} {other}\n", HEADERS[2])),
        (3, HEADERS[3].to_owned()),
        (3, format!("{}network {key} 1799999999 010101000000 punched 3 1\n", HEADERS[3])),
        (3, format!("{}network {key} 1799999999 010101000000 - 0 0\nnote of later\n", HEADERS[3])),
        (3, format!("{}network {key} 99999999999999999999 00 - 0 0\n", HEADERS[3])),
    ];
    texts.iter().map(|(which, text)| [&[*which], text.as_bytes()].concat()).collect()
}
