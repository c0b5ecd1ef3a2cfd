//! Which share of the pairs of networks out there connects: drawn from `population.toml`, beside other ways of connecting.

mod numbers;
mod page;
mod pair;
mod parameters;
mod survey;

pub use numbers::{Access, Block, Filtering, Ipv6, Mapping, Mix, Nat, Numbers, Refusing};
pub use page::Page;
pub use pair::{Pair, draw};
pub use parameters::{Error, Parameters, Point, Range, numbers};
pub use survey::{Class, Contestant, End, Figures, Kind, Sensitivity, contestants, figures, run, worse_ends};
