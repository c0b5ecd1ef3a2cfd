//! Notices that this machine's network has changed, that the machine slept, or that a peer fell
//! silent. Each is a reason to ask everything for a sign of life at once, instead of waiting until
//! it is dead for certain.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tcpunch_core::limits::{NETWORK_LOOK_EVERY, SLEPT_LEAST};
use tokio::sync::watch;

use crate::endpoint::Task;
use crate::gather;

/// What is known of the own network. Every change of it is a doubt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// Of interfaces that have a carrier, without loopback; sorted.
    addresses: Vec<IpAddr>,
    gateways: Vec<IpAddr>,
    /// How often they changed, or the machine slept.
    changes: u64,
    /// How often something did not answer.
    silences: u64,
}

/// Why what seems to stand may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The network has changed, or the machine slept.
    Changed,
    /// A peer does not answer.
    Silence,
}

/// The own network, watched as long as a clone of this is there. A clone hears of what its original
/// has not heard of; a doubt too many costs a ping.
#[derive(Clone)]
pub(crate) struct Network {
    known: watch::Receiver<Known>,
    /// Changes that this clone has told of.
    told: u64,
    teller: watch::Sender<Known>,
    _task: Arc<Task>,
}

impl Network {
    /// Begins to watch; looks once before it returns.
    pub(crate) fn watch() -> Self {
        let (addresses, gateways) = look();
        let (sender, known) = watch::channel(Known { addresses, gateways, changes: 0, silences: 0 });
        let task = tokio::spawn(keep_looking(sender.clone())).abort_handle();
        Network { known, told: 0, teller: sender, _task: Arc::new(Task(task)) }
    }

    /// Waits for the next doubt. Cancel-safe.
    pub(crate) async fn doubt(&mut self) -> Doubt {
        if self.known.changed().await.is_err() {
            // Nobody looks any more: the runtime ends.
            std::future::pending::<()>().await;
        }
        let changes = self.known.borrow_and_update().changes;
        if std::mem::replace(&mut self.told, changes) == changes { Doubt::Silence } else { Doubt::Changed }
    }

    /// Waits for the next change of the network. Cancel-safe.
    pub(crate) async fn change(&mut self) {
        while self.doubt().await != Doubt::Changed {}
    }

    /// Tells everyone who watches that a peer does not answer.
    pub(crate) fn silence(&self) {
        self.teller.send_modify(|known| known.silences += 1);
    }

    /// The addresses as they are now.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.known.borrow().addresses.clone()
    }
}

async fn keep_looking(known: watch::Sender<Known>) {
    let mut clocks = Clocks::now();
    loop {
        let started = Instant::now();
        tokio::time::sleep(NETWORK_LOOK_EVERY).await;
        let slept = started.elapsed() >= NETWORK_LOOK_EVERY + SLEPT_LEAST || clocks.slept(Clocks::apart());
        let (addresses, gateways) = look();
        known.send_if_modified(|known| {
            let changed = known.addresses != addresses || known.gateways != gateways;
            known.addresses = addresses;
            known.gateways = gateways;
            known.changes += u64::from(changed || slept);
            if changed || slept {
                tracing::debug!("the network may have changed: {known:?}");
            }
            changed || slept
        });
    }
}

fn look() -> (Vec<IpAddr>, Vec<IpAddr>) {
    let mut addresses: Vec<IpAddr> = gather::usable();
    addresses.sort_unstable();
    addresses.dedup();
    let mut gateways = gather::gateways();
    gateways.sort_unstable();
    (addresses, gateways)
}

/// The clock that stands while the machine sleeps, beside one that goes on.
struct Clocks {
    apart: Option<Duration>,
}

impl Clocks {
    fn now() -> Self {
        Clocks { apart: Self::apart() }
    }

    /// Whether the machine has slept since the last call, by how far the clocks are apart now.
    fn slept(&mut self, apart: Option<Duration>) -> bool {
        let before = std::mem::replace(&mut self.apart, apart);
        matches!((before, apart), (Some(before), Some(now)) if now.saturating_sub(before) >= SLEPT_LEAST)
    }

    #[cfg(target_os = "linux")]
    fn apart() -> Option<Duration> {
        use nix::time::{ClockId, clock_gettime};
        let awake = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
        Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?).checked_sub(awake)
    }

    /// Elsewhere the clock of `Instant` goes on, and the late look tells.
    #[cfg(not(target_os = "linux"))]
    fn apart() -> Option<Duration> {
        None
    }
}

/// The own end of a link or connection, and what it was among.
pub(crate) struct Origin {
    own: IpAddr,
    /// The addresses when `own` was last among them.
    beside: Vec<IpAddr>,
}

impl Origin {
    pub(crate) fn new(own: IpAddr, network: &Network) -> Self {
        let mut origin = Origin { own: own.to_canonical(), beside: Vec::new() };
        origin.is_replaced(network.addresses());
        origin
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.own
    }

    /// Whether another address of the family has taken the place of this one: what was made from
    /// here can't go on. One that is gone without a successor may come back, and everything made
    /// from it goes on then.
    pub(crate) fn is_replaced(&mut self, now: Vec<IpAddr>) -> bool {
        if now.contains(&self.own) {
            self.beside = now;
            return false;
        }
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == self.own.is_ipv4();
        self.beside.contains(&self.own) && now.iter().filter(same_family).any(|ip| !self.beside.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_is_replaced_only_by_another_of_its_family() {
        let before = ["172.17.0.1", "192.168.1.2", "2001:db8::2"];
        let replaced = |own: &str, steps: &[&[&str]]| {
            let mut origin = Origin { own: own.parse().unwrap(), beside: ips(&before) };
            steps.iter().map(|now| origin.is_replaced(ips(now))).collect::<Vec<_>>()
        };
        let own = "192.168.1.2";
        assert_eq!(replaced(own, &[&before, &["172.17.0.1", "192.168.1.9", "2001:db8::2"]]), [false, true]);
        assert_eq!(replaced(own, &[&["172.17.0.1"], &["2001:db8::9"], &before]), [false; 3], "it came back");
        assert_eq!(replaced(own, &[&[], &["10.0.0.1"]]), [false, true], "another after a while");
        assert_eq!(replaced("127.0.0.1", &[&[], &["10.0.0.1"]]), [false; 2], "it is not among those watched");
    }

    #[tokio::test]
    async fn a_doubt_reaches_everyone_who_watches() {
        let network = Network::watch();
        let mut others = [network.clone(), network.clone()];
        network.silence();
        for other in &mut others {
            let doubt = tokio::time::timeout(Duration::from_secs(20), other.doubt()).await.unwrap();
            assert_eq!(doubt, Doubt::Silence);
        }
        network.teller.send_modify(|known| (known.silences, known.changes) = (9, 9));
        let [other, _] = &mut others;
        tokio::time::timeout(Duration::from_secs(20), other.change()).await.unwrap();
    }

    #[test]
    fn clocks_that_part_tell_of_a_sleep_once() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let mut clocks = Clocks { apart: seconds(100) };
        assert!(!clocks.slept(seconds(100)) && !clocks.slept(seconds(101)), "clocks read one after another");
        assert!(clocks.slept(seconds(160)) && !clocks.slept(seconds(160)));
        assert!(!clocks.slept(None) && !clocks.slept(seconds(900)), "without both there is no telling");
    }
}
