//! Further rounds of an introduction: whose fresh port is told to whom, and when.

use super::*;
use crate::limits::{FRESH_PORTS, OBSERVATIONS_KEPT, OBSERVATIONS_PER_SESSION, PLACES_AGAIN, SURVEY_PLACES};
use crate::wire::Word;

const MS: Duration = Duration::from_millis(1);

/// Peers 1 and 2 were introduced, 3 was not; each has a token.
struct Met3 {
    world: World,
    id: IntroductionId,
    tokens: [[u8; 8]; 3],
}

fn met(round_trips: [Duration; 2]) -> Met3 {
    let mut world = World::new(Config::default());
    let tokens = [1, 2, 3].map(|n| {
        let observed = format!("198.51.100.{n}:1111").parse().unwrap();
        world.input(Input::LinkUp { link: link(n), peer: key(n), observed, token: token_of(link(n)) });
        token_of(link(n))
    });
    world.say_after(1, join(), Some(round_trips[0]));
    world.say_after(2, join(), Some(round_trips[1]));
    let told = world.told();
    let id = told.iter().find_map(|(_, message)| match message {
        FromBroker::Introduced(introduction) => Some(introduction.id),
        _ => None,
    });
    world.pass(Duration::from_secs(1));
    world.inbox.clear();
    Met3 { world, id: id.unwrap(), tokens }
}

fn fresh(n: u8) -> SocketAddr {
    format!("198.51.100.{n}:{}", 2000 + u16::from(n)).parse().unwrap()
}

fn question(n: u8) -> [u8; 8] {
    [n; 8]
}

impl Met3 {
    fn ask(&mut self, n: u8, round: u8, question: [u8; 8]) {
        let introduction = self.id;
        self.world.say(n, ToBroker::Round { introduction, round, question });
    }

    fn see(&mut self, n: u8, question: [u8; 8], from: SocketAddr) {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.tokens[usize::from(n) - 1]);
        token[8..].copy_from_slice(&question);
        self.world.input(Input::Observation { token, from, knock_from: None });
    }

    /// Who was told of a round that begins, and of which address.
    fn began(&mut self) -> Vec<(u8, u8, SocketAddr)> {
        let id = self.id;
        let mut began: Vec<_> = self
            .world
            .told()
            .into_iter()
            .filter_map(|(to, message)| match message {
                FromBroker::Round { introduction, round, peer } => {
                    assert_eq!(introduction, id);
                    Some((to.0 as u8, round, peer))
                }
                _ => None,
            })
            .collect();
        began.sort();
        began
    }

    fn both_begin(&mut self, round: u8) {
        for n in [1, 2] {
            self.ask(n, round, question(10 * round + n));
            self.see(n, question(10 * round + n), fresh(10 * round + n));
        }
        let (one, two) = (fresh(10 * round + 1), fresh(10 * round + 2));
        assert_eq!(self.began(), [(1, round, two), (2, round, one)]);
    }
}

#[test]
fn a_round_begins_when_both_fresh_ports_are_seen_in_whatever_order() {
    // Asked and seen, of one side and of the other.
    for first in 0..4 {
        for second in (0..4).filter(|n| *n != first) {
            for third in (0..4).filter(|n| ![first, second].contains(n)) {
                let last = 6 - first - second - third;
                let mut met = met([20 * MS; 2]);
                for (at, event) in [first, second, third, last].into_iter().enumerate() {
                    let n = 1 + event / 2;
                    if event % 2 == 0 {
                        met.ask(n, 1, question(n))
                    } else {
                        met.see(n, question(n), fresh(n))
                    }
                    let expected = [(1, 1, fresh(2)), (2, 1, fresh(1))];
                    assert_eq!(
                        met.began(),
                        if at == 3 { &expected[..] } else { &[] },
                        "{first}{second}{third}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_other_side_hears_of_the_wish_once() {
    let mut met = met([20 * MS; 2]);
    met.ask(2, 1, question(2));
    let wanted = FromBroker::RoundWanted { introduction: met.id, round: 1 };
    assert_eq!(met.world.told(), [(link(1), wanted)]);
    met.ask(2, 1, question(3));
    met.ask(1, 1, question(1));
    assert_eq!(met.world.told(), [], "nor is who answers it asked in turn");
}

#[test]
fn both_hear_of_a_round_at_the_same_moment() {
    let mut met = met([10 * MS, 70 * MS]);
    for n in [1, 2] {
        met.ask(n, 1, question(n));
        met.see(n, question(n), fresh(n));
    }
    assert_eq!(met.began(), [(2, 1, fresh(1))], "the farther side at once");
    met.world.pass(29 * MS);
    assert_eq!(met.began(), []);
    met.world.pass(MS);
    assert_eq!(met.began(), [(1, 1, fresh(2))], "the nearer one half of the difference later");
}

#[test]
fn what_others_ask_and_show_is_nothing_to_the_two() {
    let mut met = met([20 * MS; 2]);
    met.ask(3, 1, question(3));
    met.see(3, question(3), fresh(3));
    assert!(met.world.told().iter().all(|(to, _)| *to == link(3)), "a stranger to this introduction");
    met.ask(1, 1, question(1));
    met.ask(2, 1, question(2));
    met.see(1, question(1), fresh(1));
    // The question of one side under the token of another, and another question.
    met.see(1, question(2), fresh(4));
    met.see(3, question(2), fresh(5));
    met.see(2, question(9), fresh(6));
    assert_eq!(met.began(), []);
    met.see(2, question(2), fresh(2));
    assert_eq!(met.began(), [(1, 1, fresh(2)), (2, 1, fresh(1))]);
}

#[test]
fn a_fresh_port_is_where_it_was_seen_first_and_nowhere_else() {
    let mut met = met([20 * MS; 2]);
    met.ask(1, 1, question(1));
    met.see(1, question(1), fresh(1));
    met.see(1, question(1), fresh(7));
    met.ask(1, 1, question(8));
    met.see(1, question(8), fresh(8));
    met.ask(2, 1, question(2));
    met.see(2, question(2), fresh(2));
    assert_eq!(met.began(), [(1, 1, fresh(2)), (2, 1, fresh(1))]);
    for n in [1, 2] {
        met.ask(n, 1, question(n));
        met.see(n, question(n), fresh(9));
    }
    assert_eq!(met.began(), [], "a round begins once");
}

#[test]
fn what_is_seen_twice_before_it_is_asked_for_takes_the_place_of_nothing_else() {
    let mut met = met([20 * MS; 2]);
    for n in 1..=ROUNDS {
        met.see(1, question(n), fresh(n));
        met.see(1, question(n), fresh(100 + n));
    }
    met.see(2, question(9), fresh(9));
    met.ask(1, 1, question(1));
    met.ask(2, 1, question(9));
    assert_eq!(met.began(), [(1, 1, fresh(9)), (2, 1, fresh(1))]);
}

#[test]
fn rounds_come_one_after_the_other_and_end() {
    let mut met = met([20 * MS; 2]);
    for round in [0, 2, 3, ROUNDS, u8::MAX] {
        for n in [1, 2] {
            met.ask(n, round, question(n));
            met.see(n, question(n), fresh(n));
        }
        assert_eq!(met.began(), [], "{round} is not the next");
    }
    for round in 1..ROUNDS {
        met.both_begin(round);
    }
    for n in [1, 2] {
        met.ask(n, ROUNDS, question(n));
        met.see(n, question(n), fresh(n));
    }
    assert_eq!(met.began(), []);
}

#[test]
fn a_side_may_wish_for_the_next_round_before_the_other_has_shown_its_port() {
    let mut met = met([20 * MS; 2]);
    met.ask(1, 1, question(1));
    met.ask(1, 2, question(2));
    let wanted = |round| (link(2), FromBroker::RoundWanted { introduction: met.id, round });
    let expected = [wanted(1), wanted(2)];
    assert_eq!(met.world.told(), expected);
    met.see(1, question(2), fresh(2));
    met.ask(2, 2, question(12));
    met.see(2, question(12), fresh(12));
    assert_eq!(met.began(), [(1, 2, fresh(12)), (2, 2, fresh(2))]);
}

#[test]
fn a_whole_survey_may_be_seen_between_a_fresh_port_and_the_message_that_says_what_it_is_for() {
    let mut met = met([20 * MS; 2]);
    met.ask(2, 1, question(2));
    met.see(2, question(2), fresh(2));
    met.see(1, question(1), fresh(1));
    for n in 0..SURVEY_PLACES + PLACES_AGAIN + 1 + FRESH_PORTS {
        met.see(1, question(100 + u8::try_from(n).unwrap()), fresh(1));
    }
    met.world.told();
    met.ask(1, 1, question(1));
    assert_eq!(met.began(), [(1, 1, fresh(2)), (2, 1, fresh(1))]);
    for n in 0..2 * u8::try_from(OBSERVATIONS_KEPT).unwrap() {
        met.see(1, question(100 + n), fresh(1));
    }
    assert_eq!(met.world.broker.sessions[&key(1)].seen.len(), OBSERVATIONS_KEPT, "and no more is kept");
}

#[test]
fn an_introduction_that_is_over_has_no_further_rounds() {
    let mut late = met([20 * MS; 2]);
    late.world.pass(INTRODUCTION_LIFE);
    late.ask(1, 1, question(1));
    late.ask(2, 1, question(2));
    late.see(1, question(1), fresh(1));
    late.see(2, question(2), fresh(2));
    assert_eq!(late.began(), []);
    let mut left = met([20 * MS; 2]);
    left.ask(1, 1, question(1));
    left.see(1, question(1), fresh(1));
    left.world.down(2);
    left.world.inbox.clear();
    left.see(1, question(1), fresh(1));
    left.ask(1, 2, question(3));
    assert_eq!(left.began(), []);
    assert!(left.world.broker.introductions.is_empty());
}

#[test]
fn rounds_without_end_take_bounded_memory_and_leave_nothing() {
    let mut met = met([10 * MS, 70 * MS]);
    for n in 0..=255_u8 {
        for peer in [1, 2, 3] {
            met.ask(peer, n, question(n));
            met.see(peer, question(n), fresh(n));
            met.ask(peer, n % ROUNDS, question(n));
        }
    }
    for introduced in met.world.broker.introductions.values() {
        assert!(introduced.rounds.len() < usize::from(ROUNDS));
    }
    for session in met.world.broker.sessions.values() {
        assert!(session.seen.len() <= OBSERVATIONS_KEPT);
    }
    let said = met.world.told().len();
    let most = 3 * OBSERVATIONS_PER_SESSION.burst as usize + 4 * usize::from(ROUNDS);
    assert!(said <= most, "{said} messages");
    for n in [1, 2, 3] {
        met.world.down(n);
    }
    met.world.pass(2 * CODE_LIFE);
    assert!(met.world.broker.is_empty());
}

#[test]
fn two_words_in_each_round_are_passed_on_beside_all_else() {
    let mut met = met([20 * MS; 2]);
    let relay = |signal| ToBroker::Relay { introduction: met.id, signal };
    let signals = [Signal::Answer(vec![1; 96]), Signal::Sealed(vec![2; 96]), Signal::Sealed(vec![3; 96])]
        .into_iter()
        .chain(
            (0..ROUNDS).flat_map(|round| [Word::Ready, Word::Fired].map(|word| Signal::Word { round, word })),
        );
    let expected: Vec<_> = signals.clone().map(|signal| (link(2), signal)).collect();
    let messages: Vec<ToBroker> = signals.map(relay).collect();
    let more = relay(Signal::Word { round: 0, word: Word::Ready });
    for message in messages {
        met.world.say(1, message);
    }
    met.world.say(1, more);
    let told: Vec<_> = met
        .world
        .told()
        .into_iter()
        .map(|(to, message)| match message {
            FromBroker::Relayed { signal, .. } => (to, signal),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, expected);
}
