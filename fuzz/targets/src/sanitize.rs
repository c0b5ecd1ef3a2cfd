//! What others wrote, on its way to a terminal.

use tcpunch_core::sanitize::{Carets, carets, sanitize, sanitize_line};

use crate::bytes::Bytes;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let (most, piece) = (usize::from(input.u8()), usize::from(input.u8() % 8) + 1);
    let bytes = input.0;
    if let Ok(text) = std::str::from_utf8(bytes) {
        let whole = sanitize(text);
        assert_harmless(&whole);
        assert_eq!(sanitize(&whole), whole, "a second time changes nothing");
        let line = sanitize_line(text, most);
        assert_harmless(&line);
        assert!(line.chars().count() <= most);
        assert_eq!(sanitize_line(&line, most), line);
    }
    let mut whole = Vec::new();
    carets(bytes, &mut whole);
    let (mut state, mut pieces) = (Carets::default(), Vec::new());
    for piece in bytes.chunks(piece) {
        state.push(piece, &mut pieces);
    }
    state.finish(&mut pieces);
    assert_eq!(pieces, whole, "where a stream was cut changes nothing");
    assert!(whole.len() <= 4 * bytes.len());
    let shown = String::from_utf8(whole).expect("what is shown is text");
    assert_harmless(&shown.replace(['\n', '\t'], ""));
}

/// Written apart from the module that is tested: what a terminal would obey, or a reader could not see.
pub(crate) fn assert_harmless(text: &str) {
    for c in text.chars() {
        let steers = c.is_control();
        let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let hides = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        let breaks = matches!(c, '\u{2028}' | '\u{2029}');
        assert!(!(steers || reorders || hides || breaks), "{c:?} is left in {text:?}");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 7] = [
        "Grüße, 你好, שלום, e\u{301} 👍🏽".as_bytes(),
        b"\x1b[2J\x1b]0;title\x07 one\r\ntwo\tthree\x7f",
        "exe.\u{202e}gpj a\u{200b}\u{200d}\u{2060}\u{feff}b \u{2028}\u{e0041}\u{fdd0}\u{10ffff}".as_bytes(),
        "\u{9b}31m \u{85} \u{ad}".as_bytes(),
        b"\x9b2J \xff \xc3 \xe2\x82",
        "a€b".as_bytes(),
        b"",
    ];
    texts.iter().enumerate().map(|(n, text)| [&[9 * n as u8, n as u8], *text].concat()).collect()
}
