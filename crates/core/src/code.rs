//! Codes that people read to each other: `412-cobalt-heron@broker.example:7766`.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use rand::{CryptoRng, Rng};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::limits::{MAX_BROKER_TEXT, NUMBER_FIRST, NUMBER_LAST};

/// The English list of BIP-0039: 2,048 words, sorted, that differ in their first four letters.
static WORDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("words.txt").lines().collect());

/// The word with this number; numbers count modulo 2,048.
pub fn word(number: u16) -> &'static str {
    let words = &*WORDS;
    words.get(usize::from(number) % words.len().max(1)).copied().unwrap_or("word")
}

/// All words of codes, sorted, for completion.
pub fn words() -> &'static [&'static str] {
    &WORDS
}

/// The secret part of a code: two words, 22 bits. Wiped when dropped, not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Two random words.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let text = format!("{}-{}", word(rng.random_range(0..2048)), word(rng.random_range(0..2048)));
        Secret(Zeroizing::new(text))
    }

    /// The words with a hyphen between them.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A code: a public number, which the broker knows, secret words, which it never learns, and
/// where the broker is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Code {
    /// Names the meeting at the broker.
    pub number: u32,
    /// Proves that one may join it.
    pub secret: Secret,
    /// `host` or `host:port` of the broker, where the code carries it.
    pub broker: Option<String>,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.secret.text())?;
        match &self.broker {
            Some(broker) => write!(f, "@{broker}"),
            None => Ok(()),
        }
    }
}

/// Why a text is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCode {
    /// It does not begin with a number within the bounds.
    #[error("a code begins with a number of at least three digits, like 412-canyon-oxygen")]
    Number,
    /// It has not two words.
    #[error("a code has two words after its number, like 412-canyon-oxygen")]
    Words,
    /// A word is not in the list; with the nearest one that is.
    #[error("'{0}' is not a word of codes; did you mean '{1}'?")]
    UnknownWord(String, &'static str),
    /// What stands after the @ can't be a host.
    #[error("'{0}' is not a broker's address")]
    Broker(String),
}

impl FromStr for Code {
    type Err = BadCode;

    fn from_str(text: &str) -> Result<Self, BadCode> {
        let text = text.trim();
        let (text, broker) = match text.split_once('@') {
            Some((text, broker)) => (text, Some(broker)),
            None => (text, None),
        };
        let mut parts = text.split(|c: char| c == '-' || c.is_whitespace()).filter(|part| !part.is_empty());
        let number = parts
            .next()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|number| (NUMBER_FIRST..=NUMBER_LAST).contains(number))
            .ok_or(BadCode::Number)?;
        let (Some(first), Some(second), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(BadCode::Words);
        };
        let (first, second) = (known_word(first)?, known_word(second)?);
        if let Some(broker) = broker
            && (broker.is_empty()
                || broker.len() > MAX_BROKER_TEXT
                || !broker.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c)))
        {
            return Err(BadCode::Broker(broker.to_owned()));
        }
        Ok(Code {
            number,
            secret: Secret(Zeroizing::new(format!("{first}-{second}"))),
            broker: broker.map(str::to_owned),
        })
    }
}

/// The word itself, or the only one that its first four letters can mean.
fn known_word(typed: &str) -> Result<&'static str, BadCode> {
    let typed = typed.to_lowercase();
    let words = words();
    let at = words.partition_point(|word| *word < typed.as_str());
    let candidate = words.get(at).copied();
    match candidate {
        Some(word) if word == typed => return Ok(word),
        Some(word) if typed.len() >= 4 && word.starts_with(&typed) => return Ok(word),
        _ => {}
    }
    let nearest = words.iter().min_by_key(|word| distance(word, &typed)).copied().unwrap_or("word");
    Err(BadCode::UnknownWord(typed.chars().take(32).collect(), nearest))
}

/// Insertions, deletions and substitutions between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(32).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// What a code is for: both sides must name halves of the same pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verb {
    /// Waits for [`Verb::Connect`].
    Listen,
    /// Meets [`Verb::Listen`].
    Connect,
    /// Opens a private chat and waits for [`Verb::ChatJoin`].
    Chat,
    /// Meets [`Verb::Chat`].
    ChatJoin,
    /// Waits for [`Verb::PingJoin`], and answers its pings.
    Ping,
    /// Meets [`Verb::Ping`], and measures.
    PingJoin,
}

impl Verb {
    /// The verb that meets this one.
    pub fn partner(self) -> Verb {
        match self {
            Verb::Listen => Verb::Connect,
            Verb::Connect => Verb::Listen,
            Verb::Chat => Verb::ChatJoin,
            Verb::ChatJoin => Verb::Chat,
            Verb::Ping => Verb::PingJoin,
            Verb::PingJoin => Verb::Ping,
        }
    }

    /// The command that users type for it.
    pub fn command(self) -> &'static str {
        match self {
            Verb::Listen => "listen",
            Verb::Connect => "connect",
            Verb::Chat | Verb::ChatJoin => "chat",
            Verb::Ping | Verb::PingJoin => "ping",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    #[test]
    fn codes_read_back() {
        for broker in [None, Some("broker.example"), Some("[2001:db8::1]:7766"), Some("10.0.0.1:99")] {
            let code = Code {
                number: 412,
                secret: Secret::generate(&mut rand_chacha::ChaCha20Rng::seed_from_u64(3)),
                broker: broker.map(str::to_owned),
            };
            assert_eq!(code.to_string().parse(), Ok(code));
        }
    }

    #[test]
    fn typing_is_forgiven_where_it_is_unambiguous() {
        let code: Code = " 412 Abandon ZOO ".parse().unwrap();
        assert_eq!(code.to_string(), "412-abandon-zoo");
        assert_eq!("412-aban-zoo".parse(), Ok(code));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!("abandon-zoo".parse::<Code>(), Err(BadCode::Number));
        assert_eq!("12-abandon-zoo".parse::<Code>(), Err(BadCode::Number));
        assert_eq!("+412-abandon-zoo".parse::<Code>(), Err(BadCode::Number));
        assert_eq!("99999999999-abandon-zoo".parse::<Code>(), Err(BadCode::Number));
        assert_eq!("412-abandon".parse::<Code>(), Err(BadCode::Words));
        assert_eq!("412-abandon-zoo-zoo".parse::<Code>(), Err(BadCode::Words));
        assert_eq!("412-abandom-zoo".parse::<Code>(), Err(BadCode::UnknownWord("abandom".into(), "abandon")));
        assert!(matches!("412-abandon-zoo@".parse::<Code>(), Err(BadCode::Broker(_))));
        assert!(matches!("412-abandon-zoo@a b".parse::<Code>(), Err(BadCode::Broker(_))));
        assert!(matches!("412-abandon-zoo@$(x)".parse::<Code>(), Err(BadCode::Broker(_))));
    }

    #[test]
    fn partners_are_mutual() {
        let all = [Verb::Listen, Verb::Connect, Verb::Chat, Verb::ChatJoin, Verb::Ping, Verb::PingJoin];
        for verb in all {
            assert_eq!(verb.partner().partner(), verb);
            assert_eq!(all.iter().filter(|other| other.partner() == verb).count(), 1);
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC*") {
            let _ = text.parse::<Code>();
        }

        #[test]
        fn every_pair_of_words_reads_back(first in 0u16..2048, second in 0u16..2048, number in 100u32..9_999_999) {
            let text = format!("{number}-{}-{}", word(first), word(second));
            prop_assert_eq!(text.parse::<Code>().unwrap().to_string(), text);
        }
    }
}
