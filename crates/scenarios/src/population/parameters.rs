//! The numbers of `population.toml`, with their ranges.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::numbers::Numbers;

/// The file, as it was built in.
const FILE: &str = include_str!("../../population.toml");

/// How far sums of fractions may be off.
const TOLERANCE: f64 = 1e-9;

/// A number, how low and how high it could be, and who says so.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The lowest that can be defended.
    pub low: f64,
    /// The best guess.
    pub best: f64,
    /// The highest.
    pub high: f64,
    /// Where it is from.
    pub source: String,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no TOML, or a number lacks a part, or there is one that nobody asks for.
    #[error("population.toml: {0}")]
    Form(#[from] toml::de::Error),
    /// A number, or a mix of them, can't be meant; its name and why.
    #[error("population.toml: {0}: {1}")]
    Number(String, &'static str),
}

/// One value for each number: a point within the ranges.
pub type Point = BTreeMap<String, f64>;

/// All numbers by name, as `mix.home.refusal.drop`.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    ranges: BTreeMap<String, Range>,
    /// Each mix with the names of its parts.
    mixes: BTreeMap<String, Vec<String>>,
}

impl Parameters {
    /// Those of the file that was built in.
    ///
    /// # Errors
    /// The file is wrong.
    pub fn load() -> Result<Self, Error> {
        Self::parse(FILE)
    }

    /// Those of this text.
    ///
    /// # Errors
    /// It is wrong.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut ranges = BTreeMap::new();
        collect(&toml::from_str(text)?, "", &mut ranges)?;
        let mut mixes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in ranges.keys().filter(|name| name.starts_with("mix.")) {
            let mix = name.rsplit_once('.').map_or("", |(mix, _)| mix);
            mixes.entry(mix.to_owned()).or_default().push(name.clone());
        }
        let parameters = Self { ranges, mixes };
        parameters.check()?;
        Ok(parameters)
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |name: &str, why| Err(Error::Number(name.to_owned(), why));
        for (name, Range { low, best, high, .. }) in &self.ranges {
            if !(0.0 <= *low && low <= best && best <= high) {
                return wrong(name, "0 ≤ low ≤ best ≤ high does not hold");
            }
            if !name.starts_with("amount.") && *high > 1.0 {
                return wrong(name, "it is more than all");
            }
        }
        for (mix, parts) in &self.mixes {
            let sum = |of: fn(&Range) -> f64| -> f64 {
                parts.iter().filter_map(|part| self.ranges.get(part)).map(of).sum()
            };
            if (sum(|it| it.best) - 1.0).abs() > TOLERANCE {
                return wrong(mix, "the best guesses do not add up to 1");
            }
            if sum(|it| it.low) > 1.0 + TOLERANCE || sum(|it| it.high) < 1.0 - TOLERANCE {
                return wrong(mix, "nothing within the ranges adds up to 1");
            }
        }
        Ok(())
    }

    /// Every number's name and range.
    pub fn ranges(&self) -> &BTreeMap<String, Range> {
        &self.ranges
    }

    /// The names of the mixes, each with its parts.
    pub fn mixes(&self) -> &BTreeMap<String, Vec<String>> {
        &self.mixes
    }

    /// The best guesses.
    pub fn best(&self) -> Point {
        self.ranges.iter().map(|(name, range)| (name.clone(), range.best)).collect()
    }

    /// The point with another value for this number, at most at the ends of its range; the other parts of its mix make room, each by
    /// the same part of what it can give.
    pub fn with(&self, point: &Point, name: &str, value: f64) -> Point {
        let mut point = point.clone();
        let Some(range) = self.ranges.get(name) else { return point };
        let mut value = value.clamp(range.low, range.high);
        let mix = self.mixes.values().find(|parts| parts.iter().any(|part| part == name));
        let others: Vec<&String> = mix.into_iter().flatten().filter(|part| *part != name).collect();
        if !others.is_empty() {
            let ends = |of: fn(&Range) -> f64| -> f64 {
                others.iter().filter_map(|part| self.ranges.get(*part)).map(of).sum()
            };
            value = value.clamp(1.0 - ends(|it| it.high), 1.0 - ends(|it| it.low));
            let now: f64 = others.iter().filter_map(|part| point.get(*part)).sum();
            let rest = 1.0 - value;
            for part in &others {
                let (Some(range), Some(at)) = (self.ranges.get(*part), point.get_mut(*part)) else {
                    continue;
                };
                let (end, all) = if rest < now {
                    (range.low, ends(|it| it.low))
                } else {
                    (range.high, ends(|it| it.high))
                };
                // Where nobody has room, nothing has to move.
                let share = if (all - now).abs() < TOLERANCE { 0.0 } else { (rest - now) / (all - now) };
                *at += (end - *at) * share;
            }
        }
        point.insert(name.to_owned(), value);
        point
    }

    /// The mix with as much as possible of what comes first in this order, within the ranges.
    pub fn filled(&self, point: &Point, order: &[String]) -> Point {
        let mut point = point.clone();
        let ranges = || order.iter().filter_map(|name| Some((name, self.ranges.get(name)?)));
        let mut rest = 1.0 - ranges().map(|(_, range)| range.low).sum::<f64>();
        for (name, range) in ranges() {
            let more = rest.min(range.high - range.low).max(0.0);
            point.insert(name.clone(), range.low + more);
            rest -= more;
        }
        point
    }
}

/// Finds what has a best guess, however deep it is.
fn collect(table: &toml::Table, path: &str, ranges: &mut BTreeMap<String, Range>) -> Result<(), Error> {
    for (name, value) in table {
        let name = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            toml::Value::Table(inner) if inner.contains_key("best") => {
                ranges.insert(name, value.clone().try_into()?);
            }
            toml::Value::Table(inner) => collect(inner, &name, ranges)?,
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => {
                return Err(Error::Number(name, "a number has low, best, high, source"));
            }
        }
    }
    Ok(())
}

/// The point as the draw wants it: all numbers are there, and no other.
///
/// # Errors
/// One is missing, or nobody asks for it.
pub fn numbers(point: &Point) -> Result<Numbers, Error> {
    let mut root = toml::Table::new();
    for (name, value) in point {
        let mut table = &mut root;
        let (path, last) = name.rsplit_once('.').unwrap_or(("", name));
        for step in path.split('.') {
            let inner = table.entry(step).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match inner.as_table_mut() {
                Some(inner) => table = inner,
                None => return Err(Error::Number(name.clone(), "it is both a number and a group")),
            }
        }
        table.insert(last.to_owned(), toml::Value::Float(*value));
    }
    Ok(toml::Value::Table(root).try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(parameters: &Parameters, point: &Point) {
        for (mix, parts) in parameters.mixes() {
            let sum: f64 = parts.iter().map(|part| point[part]).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{mix}: {sum}");
        }
        for (name, range) in parameters.ranges() {
            assert!((range.low - 1e-9..=range.high + 1e-9).contains(&point[name]), "{name}");
        }
    }

    #[test]
    fn the_file_says_what_is_asked_for_and_each_number_has_a_source() {
        let parameters = Parameters::load().unwrap();
        numbers(&parameters.best()).unwrap();
        sums(&parameters, &parameters.best());
        for (name, range) in parameters.ranges() {
            assert!(range.source.len() > 5, "{name}");
            assert!(range.low < range.high, "{name}: a range of nothing claims to know");
        }
        assert!(parameters.mixes().len() > 15 && parameters.ranges().len() > 80);
    }

    #[test]
    fn a_mix_still_adds_up_wherever_one_part_goes() {
        let parameters = Parameters::load().unwrap();
        for (name, range) in parameters.ranges() {
            for value in [range.low, range.high] {
                let point = parameters.with(&parameters.best(), name, value);
                sums(&parameters, &point);
                assert!((point[name] - range.best).abs() <= (value - range.best).abs() + 1e-9);
                let moved = point.iter().filter(|(name, value)| parameters.ranges()[*name].best != **value);
                assert!(moved.count() >= 1, "{name} did not move");
            }
        }
        for parts in parameters.mixes().values() {
            let mut backwards = parts.clone();
            backwards.reverse();
            for order in [parts, &backwards] {
                let point = parameters.filled(&parameters.best(), order);
                sums(&parameters, &point);
                assert!(point[&order[0]] > parameters.ranges()[&order[0]].best - 1e-9);
            }
        }
    }

    #[test]
    fn a_file_that_can_not_be_meant_is_refused() {
        let one = |name: &str, low: f64, best: f64, high: f64| {
            format!("[{name}]\nlow = {low:?}\nbest = {best:?}\nhigh = {high:?}\nsource = \"assumed\"\n")
        };
        assert!(Parameters::parse(&one("share.home.linux", 0.1, 0.2, 0.3)).is_ok());
        for bad in [
            one("share.home.linux", 0.3, 0.2, 0.4),
            one("share.home.linux", 0.3, 0.5, 1.4),
            one("mix.access.home", 0.1, 0.5, 1.0),
            one("mix.access.home", 0.1, 0.4, 0.5) + &one("mix.access.public", 0.1, 0.7, 0.8),
            "share = 3".to_owned(),
            one("share.home.linux", 0.1, 0.2, 0.3).replace("source", "sauce"),
        ] {
            assert!(Parameters::parse(&bad).is_err(), "{bad}");
        }
        let mut point = Parameters::load().unwrap().best();
        let linux = point.remove("share.home.linux").unwrap();
        assert!(numbers(&point).is_err(), "one is missing");
        point.insert("share.home.linux".to_owned(), linux);
        point.insert("share.home.windows".to_owned(), 0.5);
        assert!(numbers(&point).is_err(), "nobody asks for one");
    }
}
