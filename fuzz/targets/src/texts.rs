//! What people type and what brokers advertise: codes, brokers' addresses, keys.

use tcpunch::BrokerAddress;
use tcpunch_core::code::{Code, words};
use tcpunch_core::identity::PublicKey;
use tcpunch_core::limits::{NUMBER_FIRST, NUMBER_LAST};

use crate::sanitize::assert_harmless;

pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    code(text);
    broker(text);
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text.to_ascii_lowercase());
    }
}

fn code(text: &str) {
    match text.parse::<Code>() {
        Ok(code) => {
            assert!((NUMBER_FIRST..=NUMBER_LAST).contains(&code.number));
            let (first, second) = code.secret.text().split_once('-').unwrap();
            assert!([first, second].iter().all(|word| words().contains(word)));
            let shown = code.to_string();
            assert_harmless(&shown);
            assert_eq!(shown.parse(), Ok(code));
        }
        // The text that was typed may be in it; where it is shown it is sanitised.
        Err(bad) => assert!(bad.to_string().len() <= text.len() + 200),
    }
}

fn broker(text: &str) {
    let Ok(broker) = text.parse::<BrokerAddress>() else { return };
    assert_ne!(broker.port, 0);
    let without_key = BrokerAddress { key: None, ..broker.clone() };
    assert_eq!(broker.to_string().parse(), Ok(without_key.clone()));
    let in_code = broker.in_code();
    assert_harmless(&in_code);
    assert_eq!(in_code.parse(), Ok(without_key));
    let code: Code = format!("412-abandon-zoo@{in_code}").parse().expect("every broker can stand in a code");
    assert_eq!(code.broker, Some(in_code));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let key = PublicKey([0xa1; 32]).to_string();
    let pinned = format!("[2001:db8::1]:99#{key}");
    let long = format!("{}.example:7766", "a".repeat(60));
    let texts = [
        "412-cobalt-hero",
        "9999999-abandon-zoo@broker.example:7766",
        " 412 Aban ZOO ",
        "412-abandon-zoo@[2001:db8::1]",
        "412-abandom-zoo",
        "broker.example",
        "192.0.2.1:1",
        "2001:db8::1",
        "[::1]:65535",
        &long,
        &key,
        &pinned,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
