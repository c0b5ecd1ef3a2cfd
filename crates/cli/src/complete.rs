//! What Tab offers.

use std::ffi::OsStr;

use clap_complete::CompletionCandidate;
use tcpunch_core::code::words;

/// Codes that begin like this one, up to the end of the word that is being typed.
pub(crate) fn code(typed: &str) -> Vec<String> {
    let mut parts = typed.split('-');
    let digits = parts.next().unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Vec::new();
    }
    let Some((before, begun)) = typed.rsplit_once('-') else { return Vec::new() };
    let after = match parts.count() {
        1 => "-",
        2 => "",
        _ => return Vec::new(),
    };
    let begun = begun.to_lowercase();
    let from = words().partition_point(|word| *word < begun.as_str());
    let fitting = words().iter().skip(from).take_while(|word| word.starts_with(&begun));
    fitting.map(|word| format!("{before}-{word}{after}")).collect()
}

/// As [`code`], for shells: they put a space behind the only candidate, which would be wrong between
/// the two words of a code.
pub(crate) fn code_in_shell(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = typed.to_str().map(code).unwrap_or_default();
    if let [only] = found.as_slice()
        && only.ends_with('-')
    {
        found = code(only);
    }
    found.into_iter().map(CompletionCandidate::new).collect()
}

/// Names of members, and commands at the beginning of a line.
pub(crate) fn chat(before: &str, names: &[String], commands: &[&str]) -> (usize, Vec<String>) {
    if before.starts_with('/') && !before.contains(' ') {
        let fitting = commands.iter().filter(|command| command.starts_with(before));
        return (0, fitting.map(|command| (*command).to_owned()).collect());
    }
    let at = before.rfind(char::is_whitespace).map_or(0, |space| space + 1);
    let begun = before.get(at..).unwrap_or_default().to_lowercase();
    // Somebody is spoken to at the beginning of a line, and spoken of within it.
    let after = if at == 0 { ": " } else { " " };
    let fitting = names.iter().filter(|name| name.to_lowercase().starts_with(&begun));
    (at, fitting.map(|name| format!("{name}{after}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_codes_are_completed() {
        assert_eq!(code("412-zeb"), ["412-zebra-"]);
        assert_eq!(code("412-zebra-zo"), ["412-zebra-zone", "412-zebra-zoo"]);
        assert_eq!(code("412-").len(), 2048);
        for nothing in ["", "412", "zeb", "412-zebra-zoo-", "412-zebra-zoo@h", "412-xyz", "-ab"] {
            assert!(code(nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn a_shell_puts_no_space_between_the_words() {
        let found = code_in_shell(OsStr::new("412-zeb"));
        assert_eq!(found.len(), 2048);
        let zebra = |candidate: &CompletionCandidate| {
            candidate.get_value().to_str().unwrap().starts_with("412-zebra-")
        };
        assert!(found.iter().all(zebra));
        assert_eq!(code_in_shell(OsStr::new("412-zebra-zoo")).len(), 1);
    }

    #[test]
    fn names_are_completed_and_spoken_to() {
        let names = ["Ann".to_owned(), "anton".to_owned(), "ben".to_owned()];
        assert_eq!(chat("b", &names, &[]), (0, vec!["ben: ".to_owned()]));
        assert_eq!(chat("ask an", &names, &[]), (4, vec!["Ann ".to_owned(), "anton ".to_owned()]));
        assert_eq!(chat("/p", &names, &["/path", "/peers", "/quit"]).1, ["/path", "/peers"]);
        assert_eq!(chat("/path b", &names, &["/path"]), (6, vec!["ben ".to_owned()]));
    }
}
