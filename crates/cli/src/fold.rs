//! Long lines on a terminal: broken between words, and indented as they began.

/// Narrower than this there is no room for an indent and a word beside it.
const LEAST: usize = 20;

/// The text with no line wider than the terminal, as far as words allow. What follows a label
/// (`  tried       203.0.113.2:9392 ...`) stays below what follows it.
pub(crate) fn fold(text: &str, width: usize) -> String {
    let folded: Vec<String> = text.lines().map(|line| fold_line(line, width)).collect();
    folded.join("\n")
}

fn fold_line(line: &str, width: usize) -> String {
    // A command to type stays in one piece for who copies it.
    if line.chars().count() <= width || width < LEAST || line.contains(": tcpunch ") {
        return line.to_owned();
    }
    let indent = indent(line).min(width / 2);
    let mut folded = String::new();
    let mut column = 0;
    // With the spaces behind each word, so that a label keeps its distance.
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column > indent && length > 0 && column + length > width {
            folded.truncate(folded.trim_end().len());
            folded.push('\n');
            folded.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        }
        folded.push_str(word);
        column += word.chars().count();
    }
    folded
}

/// Where the text of a line begins: behind its label, or behind its spaces.
fn indent(line: &str) -> usize {
    let spaces = line.len() - line.trim_start().len();
    if spaces == 0 {
        return 2;
    }
    let rest = line.trim_start();
    let label =
        rest.find("  ").map(|end| end + rest.get(end..).map_or(0, |gap| gap.len() - gap.trim_start().len()));
    spaces + label.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_label_stays_in_its_column() {
        let text = "tcpunch: no direct path at all\n  tried       one two three four\n  short";
        assert_eq!(
            fold(text, 24),
            "tcpunch: no direct path\n  at all\n  tried       one two\n            three four\n  short"
        );
        assert_eq!(fold(text, 100), text);
        assert_eq!(fold(text, 5), text);
        let command = "the other side runs listen; type: tcpunch connect 412-zebra-zoo";
        assert_eq!(fold(command, 30), command);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_where_words_allow() {
        let text = "  remedy      use another network on the symmetric side, or forward a port there";
        for width in 30..80 {
            let folded = fold(text, width);
            assert!(folded.lines().all(|line| line.chars().count() <= width), "{width}: {folded}");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&folded), words(text));
        }
        // A word that is wider than the terminal is the terminal's to break.
        assert_eq!(fold("abc 0123456789012345678901234567", 20), "abc\n  0123456789012345678901234567");
    }
}
