//! What a chat hears on a connection: frames in pieces of any size, from a peer that may be anybody.

use tcpunch_apps::chat::fuzz::{Heard, hear};
use tcpunch_core::limits::{MAX_LINE, MAX_NAME};

use crate::bytes::Bytes;
use crate::sanitize::assert_harmless;
use crate::within;

/// One frame, its text, and the text as it is shown, which may have four times its length.
const ALLOCATED: usize = 12 * MAX_LINE;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let size = usize::from(input.u8()) + 1;
    let mut heard = Vec::new();
    let ended = within(ALLOCATED + 4 * bytes.len(), || hear(input.0, usize::MAX, |what| heard.push(what)));
    let mut pieces = Vec::new();
    assert_eq!(hear(input.0, size, |what| pieces.push(what)), ended);
    assert_eq!(pieces, heard, "where a stream was cut changes nothing");
    for what in heard {
        match what {
            Heard::Hello(name) => {
                assert_harmless(&name);
                assert!(!name.trim().is_empty(), "everyone has a name");
                assert!(name.chars().count() <= MAX_NAME);
            }
            Heard::Line(text) => {
                assert_harmless(&text);
                assert!(text.chars().count() <= MAX_LINE);
            }
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let frames = |size: u8, frames: &[(u8, &str)]| {
        let mut bytes = vec![size];
        for (kind, text) in frames {
            // The kind, the text's length in up to two bytes of seven bits, the text.
            let length = match text.len() {
                short @ ..0x80 => vec![short as u8],
                long => vec![long as u8 | 0x80, (long >> 7) as u8],
            };
            let body = [&[*kind][..], &length, text.as_bytes()].concat();
            bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
            bytes.extend_from_slice(&body);
        }
        bytes
    };
    let long = "long ".repeat(60);
    vec![
        frames(0, &[(0, "brave-heron"), (1, "hello"), (1, "Grüße, 你好")]),
        frames(6, &[(0, "\u{202e}evil\u{1b}[2J"), (1, "one\r\ntwo\u{200b}"), (0, " \t ")]),
        frames(3, &[(0, ""), (1, ""), (2, "unknown")]),
        frames(200, &[(0, &long), (1, &long)]),
        vec![0, 0, 0, 0x40, 0x41],
        vec![0, 255, 255, 255, 255],
    ]
}
