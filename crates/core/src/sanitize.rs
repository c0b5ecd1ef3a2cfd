//! What others wrote, made fit for a terminal: names, messages, errors, file names, raw bytes of a pipe.
//!
//! A terminal obeys what it prints, and a reader believes what is shown. So whatever steers the terminal, changes the
//! direction of text or cannot be seen is replaced by something that can be seen: controls by carets (`^[`), the rest by
//! their number (`\u{202e}`), bytes that are not UTF-8 by `\x9b`. Everything else stays as it is, in any script.
//!
//! Zero-width joiners are among what is replaced: two names that look alike must not differ. The price is that an emoji
//! joined of several shows as its parts, and that a joiner in Persian or in an Indic script shows as its number.
//! Variation selectors stay, for without them many emoji and ideographs lose their form.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether `c` must not reach a terminal as it is.
fn is_forbidden(c: char) -> bool {
    // The two last code points of each plane are noncharacters.
    c.is_control() || u32::from(c) & 0xfffe == 0xfffe || is_invisible(c)
}

/// Format characters and separators that reorder text, break lines or cannot be seen, and noncharacters.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' // soft hyphen
        | '\u{34f}' // combining grapheme joiner
        | '\u{61c}' // Arabic letter mark
        | '\u{180e}' // Mongolian vowel separator
        | '\u{200b}'..='\u{200f}' // zero-width space and joiners, direction marks
        | '\u{2028}'..='\u{202e}' // line and paragraph separators, direction embeddings and overrides
        | '\u{2060}'..='\u{206f}' // word joiner, invisible operators, direction isolates
        | '\u{fdd0}'..='\u{fdef}' // noncharacters
        | '\u{feff}' // zero-width no-break space
        | '\u{fff9}'..='\u{fffb}' // interlinear annotation
        | '\u{1d173}'..='\u{1d17a}' // musical beams and slurs
        | '\u{e0000}'..='\u{e007f}' // tags
    )
}

/// Writes what stands for a forbidden character: ASCII, none of it forbidden.
fn replacement(c: char, out: &mut String) {
    match c {
        '\u{7f}' => out.push_str("^?"),
        // `^@` to `^_`: the character's number plus 64, as terminals have always shown it.
        '\0'..='\u{1f}' => out.extend(['^', char::from(c as u8 ^ 0x40)]),
        // Writing to a string cannot fail.
        _ => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
    }
}

/// `text` with all that steers or hides made visible, line ends and tabs included; borrowed when there is none.
///
/// Its length is not limited: up to four times that of `text`, which the caller has capped. For a field of one line see
/// [`sanitize_line`].
#[must_use]
pub fn sanitize(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_forbidden) else {
        return Cow::Borrowed(text);
    };
    let (clean, rest) = text.split_at(first);
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(clean);
    for c in rest.chars() {
        if is_forbidden(c) { replacement(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// [`sanitize`], cut to at most `max_chars` characters, of which the last is then an ellipsis. What stands for a
/// replaced character is never cut in two. Characters are counted, not columns: a wide one counts once.
#[must_use]
pub fn sanitize_line(text: &str, max_chars: usize) -> Cow<'_, str> {
    let mut out = String::new();
    let mut length = 0;
    // Where to cut if more comes than fits: the last place that leaves room for the ellipsis.
    let mut cut = 0;
    for c in text.chars() {
        let start = out.len();
        if is_forbidden(c) {
            replacement(c, &mut out);
            length += out.len() - start;
        } else {
            out.push(c);
            length += 1;
        }
        if length > max_chars {
            out.truncate(cut);
            if max_chars > 0 {
                out.push('…');
            }
            return Cow::Owned(out);
        }
        if length < max_chars {
            cut = out.len();
        }
    }
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// Appends `bytes` to `out` as [`Carets`] shows a whole stream.
pub fn carets(bytes: &[u8], out: &mut Vec<u8>) {
    let mut state = Carets::default();
    state.push(bytes, out);
    state.finish(out);
}

/// Shows a stream of raw bytes on a terminal: line feeds and tabs as they are, all else as [`sanitize`] does, and bytes
/// that are not UTF-8 as `\x9b`. What is shown does not depend on where the stream was cut into pieces.
#[derive(Debug, Default)]
pub struct Carets {
    /// The beginning of a character whose rest has not come yet: at most three bytes.
    held: Vec<u8>,
}

impl Carets {
    /// Appends to `out` what `bytes` show as: at most four times as many. Up to three bytes are held back when they begin
    /// a character that the next call may complete.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let joined;
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            self.held.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.held);
            &joined
        };
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            show(chunk.valid(), out);
            let invalid = chunk.invalid();
            let begins_a_character =
                std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && begins_a_character {
                self.held = invalid.to_vec();
            } else {
                show_bytes(invalid, out);
            }
        }
    }

    /// Appends to `out` what was held back. To be called at the end of the stream.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        show_bytes(&std::mem::take(&mut self.held), out);
    }
}

fn show(text: &str, out: &mut Vec<u8>) {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c| is_forbidden(c) && c != '\n' && c != '\t') {
        let (clean, after) = rest.split_at(at);
        out.extend_from_slice(clean.as_bytes());
        let mut after = after.chars();
        if let Some(c) = after.next() {
            shown.clear();
            replacement(c, &mut shown);
            out.extend_from_slice(shown.as_bytes());
        }
        rest = after.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

fn show_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        carets(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_steers_or_hides_is_shown() {
        for (text, expected) in [
            ("\u{1b}[2J\u{1b}]0;title\u{7}", "^[[2J^[]0;title^G"),
            ("\0\t\u{1f}\u{7f}", "^@^I^_^?"),
            ("one\r\ntwo", "one^M^Jtwo"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{85}", "\\u{85}"),
            ("exe.\u{202e}gpj", "exe.\\u{202e}gpj"),
            ("\u{61c}\u{200e}\u{200f}", "\\u{61c}\\u{200e}\\u{200f}"),
            ("\u{2066}\u{2069}", "\\u{2066}\\u{2069}"),
            ("a\u{200b}\u{200d}\u{2060}\u{feff}b", "a\\u{200b}\\u{200d}\\u{2060}\\u{feff}b"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{e0041}\u{fdd0}\u{10ffff}", "\\u{e0041}\\u{fdd0}\\u{10ffff}"),
        ] {
            assert_eq!(sanitize(text), expected);
            assert_eq!(sanitize_line(text, 100), expected);
        }
    }

    #[test]
    fn every_listed_character_is_replaced() {
        let listed = [
            0..=0x1f,
            0x7f..=0x9f,
            0x61c..=0x61c,
            0x200b..=0x200f,
            0x2028..=0x202e,
            0x2060..=0x2060,
            0x2066..=0x2069,
            0xfdd0..=0xfdef,
            0xfeff..=0xfeff,
            0xfffe..=0xffff,
            0x1fffe..=0x1ffff,
            0xe0000..=0xe007f,
            0x10fffe..=0x10ffff,
        ];
        for number in listed.into_iter().flatten() {
            let text = char::from_u32(number).unwrap().to_string();
            assert_ne!(sanitize(&text), text, "{number:x}");
            assert!(sanitize(&text).bytes().all(|byte| byte.is_ascii_graphic()), "{number:x}");
        }
    }

    #[test]
    fn ordinary_text_is_untouched_and_borrowed() {
        for text in [
            "",
            "Grüße, 你好, שלום, مرحبا, नमस्ते, สวัสดี, e\u{301}",
            "👍🏽 ❤\u{fe0f} 🇳🇱 ~^[]\\u{1b} \u{a0} \u{3000} \u{fffd}",
        ] {
            assert!(matches!(sanitize(text), Cow::Borrowed(same) if same == text));
            assert!(matches!(sanitize_line(text, 100), Cow::Borrowed(same) if same == text));
            assert_eq!(shown(text.as_bytes()), text);
        }
    }

    #[test]
    fn a_line_is_cut_between_characters_and_their_replacements() {
        assert_eq!(sanitize_line("heron", 5), "heron");
        assert_eq!(sanitize_line("herons", 5), "hero…");
        assert_eq!(sanitize_line("日本語", 2), "日…");
        assert_eq!(sanitize_line("a\u{202e}b", 9), "a…");
        assert_eq!(sanitize_line("a\u{202e}b", 10), "a\\u{202e}b");
        assert_eq!(sanitize_line("\u{1b}", 1), "…");
        assert_eq!(sanitize_line("a", 0), "");
        assert_eq!(sanitize_line("", 0), "");
    }

    #[test]
    fn a_stream_keeps_lines_and_tabs_and_shows_the_rest() {
        assert_eq!(shown(b"a\tb\r\n\x1b[0m\x7f"), "a\tb^M\n^[[0m^?");
        assert_eq!(shown("\u{9b}2J \u{202e} é".as_bytes()), "\\u{9b}2J \\u{202e} é");
        assert_eq!(shown(b"\x9b2J \xff \xc3"), "\\x9b2J \\xff \\xc3");
        assert_eq!(shown(b"\xe2\x82 \xe2\x82"), "\\xe2\\x82 \\xe2\\x82");
    }

    #[test]
    fn a_character_cut_in_two_is_shown_once_it_is_whole() {
        let (mut state, mut out) = (Carets::default(), Vec::new());
        state.push(b"a\xe2\x82", &mut out);
        assert_eq!(out, b"a");
        state.push(b"\xac\xc2", &mut out);
        assert_eq!(out, "a€".as_bytes());
        state.push(b"\x9b", &mut out);
        assert_eq!(out, "a€\\u{9b}".as_bytes());
        state.finish(&mut out);
        assert_eq!(out, "a€\\u{9b}".as_bytes());
    }

    /// Text in which what is forbidden is as frequent as what is not.
    fn text() -> impl Strategy<Value = String> {
        let hostile = prop::char::ranges(
            vec!['\0'..='\u{a0}', '\u{2000}'..='\u{206f}', '\u{e0000}'..='\u{e0080}'].into(),
        );
        prop::collection::vec(prop_oneof![any::<char>(), hostile], 0..60)
            .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn nothing_forbidden_remains(text in text()) {
            prop_assert!(!sanitize(&text).contains(is_forbidden));
        }

        #[test]
        fn a_second_time_changes_nothing(text in text(), max in 0..80_usize) {
            let once = sanitize(&text);
            prop_assert_eq!(sanitize(&once), once.as_ref());
            let line = sanitize_line(&text, max);
            prop_assert_eq!(sanitize_line(&line, max), line.as_ref());
        }

        #[test]
        fn clean_text_is_untouched(text in text()) {
            let clean: String = text.chars().filter(|c| !is_forbidden(*c)).collect();
            prop_assert!(matches!(sanitize(&clean), Cow::Borrowed(_)));
        }

        #[test]
        fn a_line_keeps_its_bound_and_is_the_whole_when_that_fits(text in text(), max in 0..80_usize) {
            let (whole, line) = (sanitize(&text), sanitize_line(&text, max));
            if whole.chars().count() <= max {
                prop_assert_eq!(line, whole);
            } else {
                prop_assert!(line.chars().count() <= max);
                prop_assert!(whole.starts_with(line.trim_end_matches('…')));
            }
        }

        #[test]
        fn a_stream_shows_the_same_however_it_is_cut(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..8),
                    text().prop_map(String::into_bytes),
                ],
                0..8,
            ),
            size in 1..6_usize,
        ) {
            let bytes = pieces.concat();
            let (mut state, mut out) = (Carets::default(), Vec::new());
            for piece in bytes.chunks(size) {
                state.push(piece, &mut out);
            }
            state.finish(&mut out);
            let out = String::from_utf8(out).unwrap();
            prop_assert_eq!(&out, &shown(&bytes));
            prop_assert!(!out.contains(|c| is_forbidden(c) && c != '\n' && c != '\t'));
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let lines = text.split('\n').map(|line| {
                    line.split('\t').map(sanitize).collect::<Vec<_>>().join("\t")
                });
                prop_assert_eq!(out, lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }
}
