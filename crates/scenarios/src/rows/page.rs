//! The rows as a page shows them.

use std::fmt::Write as _;

use super::measured::{Figures, Promise, figures, wilson};
use super::{Done, LOSSES, Plan, Row, Within};
use crate::report::{percent, thousands, times};

fn word(promise: Promise) -> &'static str {
    match promise {
        Promise::Holds => "yes",
        Promise::Unclear => "unclear",
        Promise::Missed => "**no**",
    }
}

/// What is promised of a row at this loss.
fn promised(row: &Row, loss: f64) -> String {
    let mut text = percent(Some(row.share(loss)));
    let heavy = loss >= super::HEAVY_LOSS;
    let _ = match row.within {
        Within::Least { .. } if loss > 0.0 && !heavy => Ok(()),
        Within::Least { times, added } => {
            let added = added.map_or(String::new(), |it| format!(" + skew + {} ms", it.as_millis()));
            write!(text, ", {times} × least{added}")
        }
        Within::Each(latest) => write!(text, ", {} s", latest.as_secs()),
        Within::EachAndMedian(latest, base) if loss <= 0.0 => {
            write!(text, ", {} s, median {} s + 4 r", latest.as_secs(), base.as_secs_f64())
        }
        Within::EachAndMedian(latest, _) => write!(text, ", {} s", latest.as_secs()),
        Within::NoPath(latest) => write!(text, " no path, {} s", latest.as_secs()),
    };
    if heavy {
        text.push_str(" + 3 s");
    }
    if let Some(syns) = row.syns {
        let _ = write!(text, ", {} SYNs", thousands(usize::try_from(syns).unwrap_or(usize::MAX)));
    }
    text
}

pub(super) fn milliseconds(seconds: Option<f64>) -> String {
    seconds.map_or("–".to_owned(), |it| thousands((it * 1000.0).round() as usize))
}

/// Cells of a table: share, time, SYNs, verdict.
fn cells(it: &Figures) -> String {
    if it.runs == 0 {
        return "– | – | – | –".to_owned();
    }
    let [low, high] = wilson(it.kept, it.runs).map(|share| share * 100.0);
    let [median, late] = it.multiples;
    let [half, most_of, most] = it.syns;
    let in_the_end = match it.ended {
        same if same == it.kept => String::new(),
        ended => format!(", in the end {}", percent(Some(ended as f64 / it.runs as f64))),
    };
    let pairs = match it.late {
        [0, _] => String::new(),
        [late, of] => format!(", {late} of {of} medians late"),
    };
    format!(
        "{} of {} ({low:.1}–{high:.1}){in_the_end} | {}, {} ms; {}, {} | {half}, {most_of}, {most}; {} | {}{pairs}",
        percent(it.kept_share()),
        thousands(it.runs),
        milliseconds(it.seconds[0]),
        milliseconds(it.seconds[1]),
        times(median),
        times(late),
        it.wire_syns,
        word(it.promise()),
    )
}

const HEAD: &str = "Kept (95 % interval) | Median, 95th | SYNs: median, 95th, most; on the wire | Holds";
const LINES: &str = "--:|--:|--:|---";

/// A table for each loss, with a line for each row: each column for every kind of runs that is given with its name.
pub fn summary(plan: &Plan, kinds: &[(&str, &[Done])]) -> String {
    let mut page = String::new();
    for loss in LOSSES {
        let _ = write!(page, "\n### Loss {} %\n\n| Row | Promised |", loss * 100.0);
        for (kind, _) in kinds {
            let _ = write!(page, " {kind}: {HEAD} |");
        }
        page.push_str("\n|---|---|");
        for _ in kinds {
            let _ = write!(page, "{LINES}|");
        }
        page.push('\n');
        for (at, row) in plan.rows.iter().enumerate() {
            let of_loss = |it: &&Done| {
                it.row == at
                    && plan.conditions.get(it.condition).is_some_and(|condition| condition.loss == loss)
            };
            let all: Vec<Figures> =
                kinds.iter().map(|(_, done)| figures(plan, row, done.iter().filter(of_loss))).collect();
            if all.iter().all(|it| it.runs == 0) {
                continue;
            }
            let _ = write!(page, "| {} | {} |", row.name, promised(row, loss));
            for figures in &all {
                let _ = write!(page, " {} |", cells(figures));
            }
            page.push('\n');
        }
    }
    page
}

/// A line for each row on each link.
pub fn details(plan: &Plan, done: &[Done]) -> String {
    let mut page = format!("\n| Row | Link | {HEAD} |\n|---|---|{LINES}|\n");
    for (at, row) in plan.rows.iter().enumerate() {
        for (nth, condition) in plan.conditions.iter().enumerate() {
            let here = |it: &&Done| it.row == at && it.condition == nth;
            let figures = figures(plan, row, done.iter().filter(here));
            if figures.runs > 0 {
                let _ = writeln!(page, "| {} | {} | {} |", row.name, condition, cells(&figures));
            }
        }
    }
    page
}

/// What the rows' names stand for.
pub fn legend(plan: &Plan) -> String {
    let mut page = String::from("\n| Row | Pairs | Which |\n|---|--:|---|\n");
    for row in &plan.rows {
        let _ = writeln!(page, "| {} | {} | {} |", row.name, thousands(row.pairs.len()), row.says);
    }
    page
}

/// The page with another part between the two comments that name it; as it is where they are missing.
pub fn rewrite(page: &str, part: &str, content: &str) -> String {
    let (begin, end) = (format!("<!-- {part} -->\n"), format!("<!-- end of {part} -->\n"));
    let parts = page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match parts {
        Some((before, after)) => format!("{before}{begin}{content}{end}{after}"),
        None => format!("{page}\n{begin}{content}{end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_written_anew_and_the_others_stay() {
        let page = rewrite(&rewrite("# Title\n", "one", "1\n"), "two", "2\n");
        let page = rewrite(&page, "one", "another\n");
        assert!(
            page.starts_with("# Title\n") && page.contains("<!-- one -->\nanother\n<!-- end of one -->\n")
        );
        assert!(page.contains("<!-- two -->\n2\n") && !page.contains("\n1\n"));
    }
}
