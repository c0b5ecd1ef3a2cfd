//! Whether there is colour, and which: decided here alone.

use std::borrow::Cow;
use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use tcpunch::PublicKey;

use crate::modes::knows_escapes;

/// What a piece of text is, where colour helps to find it.
#[derive(Clone, Copy)]
pub(crate) enum Hue {
    /// A member's name: one member has one colour.
    Name(PublicKey),
    /// How a connection runs.
    Path,
    /// What has to be read out to somebody.
    Code,
    /// The word before an error.
    Error,
}

/// Colours of names: the eight colours of every terminal without those that vanish on a light or a
/// dark ground, and without red, which means an error.
const NAMES: [AnsiColor; 5] =
    [AnsiColor::Green, AnsiColor::Yellow, AnsiColor::Blue, AnsiColor::Magenta, AnsiColor::Cyan];

/// Which of the two outputs take colour.
#[derive(Clone, Copy)]
pub(crate) struct Colours {
    pub(crate) out: bool,
    pub(crate) err: bool,
}

impl Colours {
    /// Only on a terminal that knows it, and not against the user's wish (no-color.org).
    pub(crate) fn decide() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && knows_escapes();
        Colours {
            out: wanted && std::io::stdout().is_terminal(),
            err: wanted && std::io::stderr().is_terminal(),
        }
    }
}

/// The text, in colour where `on` says so.
pub(crate) fn paint(on: bool, hue: Hue, text: &str) -> Cow<'_, str> {
    if !on {
        return Cow::Borrowed(text);
    }
    let style = match hue {
        Hue::Name(peer) => {
            let which = usize::from(peer.0.first().copied().unwrap_or(0)) % NAMES.len();
            NAMES.get(which).map_or_else(Style::new, |colour| colour.on_default().bold())
        }
        Hue::Path => AnsiColor::Green.on_default(),
        Hue::Code => Style::new().bold(),
        Hue::Error => AnsiColor::Red.on_default().bold(),
    };
    Cow::Owned(format!("{style}{text}{style:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_the_text_is_untouched() {
        assert_eq!(paint(false, Hue::Error, "x"), "x");
        let red = paint(true, Hue::Error, "x");
        assert!(red.starts_with("\u{1b}[") && red.ends_with("\u{1b}[0m"), "{red:?}");
    }
}
