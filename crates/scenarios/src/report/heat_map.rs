//! The picture: one cell a pair. SVG by hand, without fonts or anything else from outside.

use std::fmt::Write as _;

use super::{Grid, Summary};

const CELL: (usize, usize) = (54, 34);
const MARGIN: usize = 20;
/// A letter of the labels, about: nobody knows with which font it will be shown.
const LETTER: usize = 7;
const HEADING: usize = 66;
const LEGEND: usize = 96;

/// Colours of shares from none to all; and as words in the legend. Also told apart by who can't tell red from green: they
/// grow lighter toward the middle, and the ends differ in blue.
const SHARES: [(f64, &str, &str); 6] = [
    (0.0, "#b2182b", "0 %"),
    (0.25, "#e4713f", "under 50 %"),
    (0.5, "#f6b65b", "under 80 %"),
    (0.8, "#e6e08a", "under 95 %"),
    (0.95, "#7fc8a4", "under 100 %"),
    (1.0, "#1b8a6b", "100 %"),
];
/// Of what was not run.
const NOTHING: &str = "#d9d9d9";

/// A heat map of all pairs: rows wait, columns arrive. The colour is the share that connected, the text the median time as
/// a multiple of the least; a frame marks what connected less often than it should.
///
/// It brings its own background, so it looks the same on light and on dark pages.
pub fn heat_map(title: &str, subtitle: &str, grid: &Grid) -> String {
    let count = grid.names.len();
    let longest = grid.names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let labels = longest * LETTER + 14;
    // Column labels stand at 45 degrees: as high as wide, about seven tenths of their length.
    let slanted = labels * 7 / 10 + 24;
    let (left, top) = (MARGIN + labels, MARGIN + HEADING + slanted);
    let width = (left + count * CELL.0 + slanted.max(MARGIN)).max(780);
    let height = top + count * CELL.1 + LEGEND + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"10\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{}\" font-size=\"19\" font-weight=\"600\" fill=\"#1c1c1c\">{title}</text>\n\
         <text x=\"{MARGIN}\" y=\"{}\" fill=\"#555555\">{}</text>\n",
        MARGIN + 18,
        MARGIN + 40,
        escaped(subtitle),
        title = escaped(title),
    );
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555555\">waits ↓   arrives →</text>",
        left - 8,
        top - 8
    );
    for (at, name) in grid.names.iter().enumerate() {
        let name = escaped(name);
        let (x, y) = (left + at * CELL.0 + CELL.0 / 2, top - 8);
        let _ = writeln!(
            svg,
            "<text transform=\"translate({x} {y}) rotate(-45)\" fill=\"#1c1c1c\">{name}</text>"
        );
        let y = top + at * CELL.1 + CELL.1 / 2 + 4;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\" fill=\"#1c1c1c\">{name}</text>",
            left - 8
        );
    }
    for (row, waits) in grid.names.iter().enumerate() {
        for (column, arrives) in grid.names.iter().enumerate() {
            let (x, y) = (left + column * CELL.0, top + row * CELL.1);
            svg.push_str(&cell(x, y, [waits, arrives], &grid.cell(row, column)));
        }
    }
    svg.push_str(&legend(MARGIN + 90, top + count * CELL.1 + 26));
    svg.push_str("</svg>\n");
    svg
}

fn cell(x: usize, y: usize, names: [&str; 2], summary: &Summary) -> String {
    let [waits, arrives] = names.map(escaped);
    let share = summary.share();
    let fill = share.map_or(NOTHING, colour);
    let (width, height) = (CELL.0 - 2, CELL.1 - 2);
    let told = super::percent(share);
    let mut cell = format!(
        "<g><title>{waits} × {arrives}: {} of {} connected, median {} the least time</title>\
         <rect x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{height}\" rx=\"4\" fill=\"{fill}\"",
        summary.connected,
        summary.runs,
        super::times(summary.median),
        x + 1,
        y + 1
    );
    if summary.connected < summary.expected || summary.wrong > 0 {
        cell.push_str(" stroke=\"#000000\" stroke-width=\"2\"");
    }
    cell.push_str("/>");
    let ink = if is_dark(fill) { "#ffffff" } else { "#1c1c1c" };
    let middle = x + CELL.0 / 2;
    let text = |cell: &mut String, y: usize, size: usize, text: &str| {
        let _ = write!(
            cell,
            "<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"{size}\" fill=\"{ink}\">{text}</text>"
        );
    };
    match (share, summary.median) {
        (Some(share), Some(median)) if share < 1.0 => {
            text(&mut cell, y + 15, 12, &super::times(Some(median)));
            text(&mut cell, y + 27, 10, &told);
        }
        (Some(_), Some(median)) => text(&mut cell, y + 21, 12, &super::times(Some(median))),
        (Some(_), None) => text(&mut cell, y + 21, 12, "–"),
        (None, _) => {}
    }
    cell.push_str("</g>\n");
    cell
}

fn legend(left: usize, top: usize) -> String {
    let mut legend = format!("<text x=\"{MARGIN}\" y=\"{}\" fill=\"#1c1c1c\">Connected</text>\n", top + 14);
    for (at, (_, fill, word)) in SHARES.iter().enumerate() {
        let x = left + at * 112;
        let _ = writeln!(
            legend,
            "<rect x=\"{x}\" y=\"{top}\" width=\"20\" height=\"20\" rx=\"4\" fill=\"{fill}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"#1c1c1c\">{word}</text>",
            x + 26,
            top + 14
        );
    }
    let lines = [
        "Number: the median time from the claim of the code to the authenticated connection, as a multiple of the least time.",
        "A dash: nothing connected. A black frame: connected less often than expected of this pair today.",
    ];
    for (at, line) in lines.iter().enumerate() {
        let _ = writeln!(
            legend,
            "<text x=\"{MARGIN}\" y=\"{}\" fill=\"#555555\">{line}</text>",
            top + 44 + at * 18
        );
    }
    legend
}

/// Of a share from 0 to 1. None and all have colours of their own.
fn colour(share: f64) -> &'static str {
    let [none, some, half, most, nearly, all] = SHARES.map(|(_, colour, _)| colour);
    match share {
        share if share <= 0.0 => none,
        share if share < 0.5 => some,
        share if share < 0.8 => half,
        share if share < 0.95 => most,
        share if share < 1.0 => nearly,
        _ => all,
    }
}

fn is_dark(colour: &str) -> bool {
    let part = |at: usize| {
        colour.get(at..at + 2).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or_default()
    };
    // ITU-R BT.601 luma.
    299 * part(1) + 587 * part(3) + 114 * part(5) < 128_000
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::grid;
    use super::*;

    #[test]
    fn each_pair_has_a_cell_with_its_colour_and_its_time() {
        let svg = heat_map("Real kernels", "7 runs", &grid());
        assert_eq!(svg.matches("<g>").count(), 4);
        assert_eq!(svg.matches("symmetric &lt;random&gt;</text>").count(), 2);
        for wanted in [
            "public × public: 3 of 3 connected, median 1.0 × the least time",
            "public × symmetric &lt;random&gt;: 1 of 2 connected, median 12 × the least time",
            ">50.0 %</text>",
            ">–</text>",
        ] {
            assert!(svg.contains(wanted), "{wanted} in\n{svg}");
        }
        // Every colour of a cell once more in the legend; one cell is framed.
        for colour in ["#1b8a6b", "#f6b65b", "#b2182b"] {
            assert!(svg.matches(colour).count() >= 2, "{colour}");
        }
        assert_eq!(svg.matches("stroke=\"#000000\"").count(), 1);
    }

    #[test]
    fn it_is_well_formed_and_needs_nothing_from_outside() {
        let svg = heat_map("A & B", "", &grid());
        for element in ["svg", "g", "text", "title"] {
            let opened =
                svg.matches(&format!("<{element}>")).count() + svg.matches(&format!("<{element} ")).count();
            assert_eq!(opened, svg.matches(&format!("</{element}>")).count(), "{element}");
        }
        assert!(svg.contains("A &amp; B"));
        for foreign in ["href", "@import", "url(", "<image", "<script"] {
            assert!(!svg.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn text_is_readable_on_its_cell() {
        assert!(is_dark("#b2182b") && is_dark("#1b8a6b"));
        assert!(!is_dark("#e6e08a") && !is_dark(NOTHING));
    }
}
