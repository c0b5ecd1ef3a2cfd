//! What went over the cables, as a sequence diagram.

use std::fmt::Write as _;

use crate::{Internet, Node, Passage};

/// A mermaid `sequenceDiagram`.
pub(super) fn draw(_internet: &Internet, passages: &[Passage]) -> String {
    let mut text = String::from("sequenceDiagram\n");
    for passage in passages {
        let name = |node| match node {
            Node::Core => "core".to_owned(),
            Node::Host(id) => format!("host{}", id.0),
            Node::Gateway(id) => format!("gateway{}", id.0),
        };
        let _ = writeln!(text, "    {}->>{}: {:?}", name(passage.from), name(passage.to), passage.sent);
    }
    text
}
