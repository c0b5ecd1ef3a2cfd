//! What each side does in a round, by what is known of both networks.

use crate::limits::{
    BIRTHDAY_PORTS, BIRTHDAY_SPREAD, BLOCK_LARGEST, BLOCK_PORTS, BLOCK_SMALL, BLOCK_SPREAD,
    BLOCK_SPREAD_LEAST, REFIRES_OF_VOLLEY, ROUNDS, STEPS_AHEAD, STEPS_BOTH, STEPS_SPREAD,
};
use crate::profile::{Allocation, Behaviour, NatProfile, Refusal};

/// Rules of firing, each of which a measurement can turn off to see what it is worth. The program has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The first SYNs leave a random moment after Go, so that answers and SYNs of the two do not meet at one instant.
    pub stagger: bool,
    /// A refused SYN is fired again from a new socket, at the pace of the refusals and with jitter.
    pub refire: bool,
    /// After an ICMP answer at once, so that an open hole always has a live socket.
    pub icmp_at_once: bool,
    /// Where the first ports led to nothing, further rounds from fresh ones.
    pub rounds: bool,
    /// Ports of a NAT that steps, or has a block, are predicted.
    pub prediction: bool,
    /// Many ports against many where one side's NAT chooses them at random (TCP birthday).
    pub birthday: bool,
    /// Where one side's NAT resets, that side opens its ports first; where it is not known, both at one moment.
    pub order: bool,
    /// A lane whose SYNs were refused must be acknowledged before it counts.
    pub caution: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            stagger: true,
            refire: true,
            icmp_at_once: true,
            rounds: true,
            prediction: true,
            birthday: true,
            order: true,
            caution: true,
        }
    }
}

/// What one side does in one round. The other side's is what comes out with the profiles swapped, and the two fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// Dial where the peer was seen, from the round's own port.
    pub dial: bool,
    /// And many at once.
    pub volley: Option<Volley>,
    /// Which side opens first.
    pub order: Order,
    /// The places where the broker saw the two before are no good for this: begin with a round from fresh ports.
    pub fresh: bool,
    /// Nothing is left to hope for but what needs no luck with ports: IPv6, a port mapping, one LAN.
    pub hopeless: bool,
}

/// Who opens its ports first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Both at once.
    Together,
    /// This side: a SYN of the other that comes before is refused here.
    First,
    /// The other side.
    Second,
}

/// Many connects at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volley {
    /// Whereto and wherefrom.
    pub aim: Aim,
    /// How many.
    pub shots: u16,
    /// First SYNs for this in all rounds.
    pub budget: u16,
    /// Both NATs reset, or one may and who fires first is open: SYNs must cross, so the two agree on a moment, and what was refused
    /// is fired again.
    pub crossing: bool,
    /// The ports are a matter of chance.
    pub birthday: bool,
    /// The ports follow the one where a side was seen just before.
    pub steps: bool,
}

impl Volley {
    /// Whether it is small enough to be fired in every round.
    pub fn repeats(&self) -> bool {
        self.steps || self.shots <= BLOCK_SMALL
    }
}

/// Whereto the connects of a [`Volley`] go, and from which ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// From as many own ports to where the peer was seen.
    Spread,
    /// From as many own ports to the port so many above the one where the peer was seen.
    SpreadTo(i32),
    /// From the round's port to the ports that follow the one where the peer was seen, so far from each other.
    Next(i16),
    /// From the round's port to ports within these, the last included.
    Within(u16, u16),
}

/// How a side's ports look from outside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ports {
    /// As the broker saw them.
    Fixed,
    /// Not measured yet: most are fixed, but many ports are not spent on that.
    Unknown,
    Stepping(i16),
    Within(u16, u16),
}

fn ports(profile: &NatProfile, round: u8, rules: &Rules) -> Ports {
    let seen_enough = !matches!(profile.allocation, Allocation::Changing);
    if round == 0 && profile.is_symmetric() && !seen_enough {
        return Ports::Unknown;
    }
    // Who was seen through one port of the broker alone, or not long enough yet, is taken at first for what most are.
    let doubtful = may_be_symmetric(profile) && round > u8::from(!seen_enough);
    if !profile.is_symmetric() && !doubtful {
        let measured = profile.mapping != Behaviour::Unknown
            || profile.translated == Some(false)
            || profile.allocation == Allocation::Preserving;
        return if measured || round > 0 { Ports::Fixed } else { Ports::Unknown };
    }
    match profile.allocation {
        Allocation::Stepping(step) if rules.prediction && step != 0 => Ports::Stepping(step),
        // No NAT gives away well-known ports, and nobody is made to dial them.
        Allocation::Block { first, last }
            if rules.prediction
                && (BIRTHDAY_PORTS.0..=last).contains(&first)
                && last - first < BLOCK_LARGEST =>
        {
            Ports::Within(first, last)
        }
        Allocation::Unknown
        | Allocation::Preserving
        | Allocation::Changing
        | Allocation::Stepping(_)
        | Allocation::Block { .. }
        | Allocation::Random => {
            let (first, last) = BIRTHDAY_PORTS;
            Ports::Within(first, last)
        }
    }
}

/// Whether the NAT chooses ports of its own, and nobody knows whether the same for all destinations.
pub(crate) fn may_be_symmetric(profile: &NatProfile) -> bool {
    profile.mapping == Behaviour::Unknown
        && !matches!(profile.allocation, Allocation::Unknown | Allocation::Preserving)
}

/// Whether the filter may be open: one observer can't tell an open one from one that lets in by address. Where the broker saw a
/// symmetric side nobody is reached otherwise.
pub(crate) fn may_be_open(profile: &NatProfile) -> bool {
    matches!(profile.filtering, Behaviour::Unknown | Behaviour::PortIndependent)
}

/// Whether an early SYN of the other side may be answered with a reset, which ends the other side's hole as well. An ICMP
/// error does not, and routers send few.
fn may_reset(profile: &NatProfile) -> bool {
    match profile.refusal {
        Refusal::Reset | Refusal::Unknown => true,
        Refusal::Drop | Refusal::Icmp => false,
    }
}

/// Who lets everybody in is reached where the broker saw it; so is who lets in every port of an address that it has dialled.
fn is_reached(profile: &NatProfile, round: u8) -> bool {
    match profile.filtering {
        Behaviour::EndpointIndependent => true,
        Behaviour::PortIndependent | Behaviour::AddressDependent => !profile.is_symmetric() && round == 0,
        Behaviour::Unknown | Behaviour::EndpointDependent | Behaviour::AddressAndPortDependent => false,
    }
}

/// Whether it has let in somebody whom it had not sent anything: everybody, or at least every port of an address.
pub(crate) fn lets_in(profile: &NatProfile) -> bool {
    matches!(profile.filtering, Behaviour::EndpointIndependent | Behaviour::PortIndependent)
}

/// Whether an own SYN would keep the other side out that may come in where the broker saw this one: it would get another port outside,
/// and a NAT drops what has the same two ends inside as a session that it has (conntrack: a clash of tuples). Of another symmetric side
/// the two have different ends.
pub(crate) fn is_in_the_way(own: &NatProfile, peer: &NatProfile, round: u8) -> bool {
    own.is_symmetric() && lets_in(own) && !peer.is_symmetric() && !is_reached(peer, round)
}

/// What a side with the profile `own` does in this round toward one with the profile `peer`.
///
/// `strangers`: the two met in a lobby, where nobody fires at ports that the broker did not see.
pub fn strategy(own: &NatProfile, peer: &NatProfile, round: u8, strangers: bool, rules: &Rules) -> Strategy {
    let order = match (own.refusal, peer.refusal) {
        (Refusal::Reset, Refusal::Drop | Refusal::Icmp) if rules.order => Order::First,
        (Refusal::Drop | Refusal::Icmp, Refusal::Reset) if rules.order => Order::Second,
        // Before a NAT that drops bare SYNs on half-open sessions, first is the wrong place: nobody is put there for what is
        // not known.
        _ => Order::Together,
    };
    let may_dial = !is_in_the_way(own, peer, round);
    let plain = Strategy { dial: may_dial, volley: None, order, fresh: false, hopeless: false };
    let reached = |profile| is_reached(profile, round);
    let (mine, theirs) = (ports(own, round, rules), ports(peer, round, rules));
    if strangers || reached(own) || reached(peer) {
        let chosen = |ports| matches!(ports, Ports::Stepping(_) | Ports::Within(..));
        let symmetric = chosen(mine) && chosen(theirs);
        let hopeless = symmetric && !reached(own) && !reached(peer);
        return Strategy { hopeless, ..plain };
    }
    let crossing = rules.order && order == Order::Together && (may_reset(own) || may_reset(peer));
    let volley = |aim, shots: u16| {
        let refires = (shots / 20).min(REFIRES_OF_VOLLEY);
        let once = Volley { aim, shots, budget: 0, crossing, birthday: false, steps: false };
        let rounds = if once.repeats() { u16::from(ROUNDS) } else { 1 };
        Volley { budget: shots.saturating_mul(rounds).saturating_add(refires), ..once }
    };
    let with =
        |volley: Volley| Strategy { dial: may_dial && may_be_open(peer), volley: Some(volley), ..plain };
    // A port that steps is known as long as nobody else takes the next ones: it is looked at just before, and what
    // went there first would be one step in vain.
    let stepping = |volley: Volley| match round {
        0 => Strategy { dial: may_dial && may_be_open(peer), fresh: true, ..plain },
        _ => {
            let budget = volley.shots.saturating_mul(u16::from(ROUNDS));
            let volley = Volley { budget, steps: true, ..volley };
            Strategy { dial: may_dial && round > 1, ..with(volley) }
        }
    };
    match (mine, theirs) {
        (Ports::Fixed | Ports::Unknown, Ports::Fixed | Ports::Unknown)
        | (Ports::Unknown, Ports::Stepping(_) | Ports::Within(..))
        | (Ports::Stepping(_) | Ports::Within(..), Ports::Unknown) => plain,
        (Ports::Fixed, Ports::Stepping(step)) => stepping(volley(Aim::Next(step), STEPS_AHEAD)),
        (Ports::Stepping(_), Ports::Fixed) => stepping(volley(Aim::Spread, STEPS_SPREAD)),
        (Ports::Stepping(_), Ports::Stepping(step)) => {
            // Of so many on each side one pair meets, if both NATs gave away no more ports meanwhile.
            let ahead = i32::from(step) * i32::from(STEPS_BOTH);
            stepping(volley(Aim::SpreadTo(ahead), STEPS_BOTH))
        }
        (Ports::Fixed, Ports::Within(first, last)) if rules.birthday || is_block(first, last) => {
            let (_, shots) = sizes(first, last);
            let chance = !is_block(first, last);
            let volley = Volley { birthday: chance, ..volley(Aim::Within(first, last), shots) };
            with(volley)
        }
        (Ports::Within(first, last), Ports::Fixed) if rules.birthday || is_block(first, last) => {
            let (shots, _) = sizes(first, last);
            let chance = !is_block(first, last);
            let volley = Volley { birthday: chance, ..volley(Aim::Spread, shots) };
            with(volley)
        }
        (Ports::Fixed, Ports::Within(..)) | (Ports::Within(..), Ports::Fixed) => plain,
        (Ports::Stepping(_) | Ports::Within(..), Ports::Within(..))
        | (Ports::Within(..), Ports::Stepping(_)) => Strategy { hopeless: true, ..plain },
    }
}

fn is_block(first: u16, last: u16) -> bool {
    (first, last) != BIRTHDAY_PORTS
}

/// How many own ports the side with those outside ports opens, and how many of them the other side dials.
fn sizes(first: u16, last: u16) -> (u16, u16) {
    let all = last.saturating_sub(first).saturating_add(1);
    if is_block(first, last) {
        let spread = (all / 8).clamp(BLOCK_SPREAD_LEAST, BLOCK_SPREAD);
        (spread, all.min(BLOCK_PORTS))
    } else {
        BIRTHDAY_SPREAD
    }
}

#[cfg(test)]
mod tests;
