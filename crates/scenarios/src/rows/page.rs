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

fn milliseconds(seconds: Option<f64>) -> String {
    seconds.map_or("–".to_owned(), |it| thousands((it * 1000.0).round() as usize))
}

/// Cells of a table: runs, share, time, SYNs, verdict.
fn cells(it: &Figures) -> String {
    if it.runs == 0 {
        return "– | – | – | – | –".to_owned();
    }
    let [low, high] = wilson(it.kept, it.runs);
    let [median, late] = it.multiples;
    let [half, most_of, most] = it.syns;
    let pairs = match it.late {
        [0, _] => String::new(),
        [late, of] => format!(", {late} of {of} medians late"),
    };
    format!(
        "{} | {} ({:.2}–{:.2}) | {} / {} ms, {} / {} | {half} / {most_of} / {most}, wire {} | {}{pairs}",
        thousands(it.runs),
        percent(it.kept_share()),
        low * 100.0,
        high * 100.0,
        milliseconds(it.seconds[0]),
        milliseconds(it.seconds[1]),
        times(median),
        times(late),
        it.wire_syns,
        word(it.promise()),
    )
}

const HEAD: &str = "Runs | Kept (95 % interval) | Median / 95th | SYNs median / 95th / most | Holds";

/// A table for each loss: a line for each row.
pub fn summary(plan: &Plan, done: &[Done]) -> String {
    let mut page = String::new();
    for loss in LOSSES {
        let _ = write!(
            page,
            "\n### Loss {} %\n\n| Row | Promised | {HEAD} |\n|---|---|--:|--:|--:|--:|---|\n",
            loss * 100.0
        );
        for (at, row) in plan.rows.iter().enumerate() {
            let of_loss = |it: &&Done| {
                it.row == at
                    && plan.conditions.get(it.condition).is_some_and(|condition| condition.loss == loss)
            };
            let figures = figures(plan, row, done.iter().filter(of_loss));
            if figures.runs > 0 {
                let _ = writeln!(page, "| {} | {} | {} |", row.name, promised(row, loss), cells(&figures));
            }
        }
    }
    page
}

/// A line for each row on each link.
pub fn details(plan: &Plan, done: &[Done]) -> String {
    let mut page = format!("\n| Row | Link | {HEAD} |\n|---|---|--:|--:|--:|--:|---|\n");
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
