//! Cables between namespaces: plain veth pairs, or delayed wires where conditions ask for it.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use crate::device::{self, Kind};
use crate::kernel::wire::{Cabling, Wire};
use crate::namespace::Namespace;

/// An Ethernet address, locally administered, unique in this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mac(u32);

impl Mac {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0.to_be_bytes();
        write!(f, "02:6e:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }
}

/// One end of a cable.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) interface: String,
    pub(crate) mac: Mac,
}

/// A cable; the near end is that of the node whose cable it is, the far end belongs to what it hangs on.
#[derive(Debug)]
pub(crate) struct Link {
    near: End,
    far: End,
    wire: Option<Arc<Wire>>,
    // Taking a veth's far end down is what pulls the near end's carrier, and makes the kernel forget these there.
    far_settings: Mutex<String>,
}

impl Link {
    /// Lays the cable; both ends are up. With `bridge`, the far end is a port of that bridge.
    pub(crate) fn lay(near: End, far: End, bridge: Option<&str>, cabling: Cabling) -> Result<Self, Error> {
        let near_up = format!("link set {} address {} up\n", near.interface, near.mac);
        let master = bridge.map_or_else(String::new, |bridge| format!("master {bridge} "));
        let far_up = format!("link set {} address {} {master}up\n", far.interface, far.mac);
        let wire = if cabling.conditions.perfect() {
            near.namespace.ip(&format!(
                "link add {} type veth peer name {} netns {}\n{near_up}",
                near.interface,
                far.interface,
                far.namespace.name()
            ))?;
            far.namespace.ip(&far_up)?;
            None
        } else {
            // The length of the queue is what the wire's thread may lag behind without losing packets of its own accord.
            let queue = |end: &End| format!("link set {} txqueuelen 10000\n", end.interface);
            let tap =
                |end: &End| end.namespace.run(|| device::open(&end.interface, Kind::Tap)).and_then(|tap| tap);
            let (near_tap, far_tap) = (tap(&near)?, tap(&far)?);
            near.namespace.ip(&format!("{}{near_up}", queue(&near)))?;
            far.namespace.ip(&format!("{}{far_up}", queue(&far)))?;
            Some(Arc::new(Wire::start(near_tap, far_tap, cabling)?))
        };
        Ok(Self { near, far, wire, far_settings: Mutex::new(String::new()) })
    }

    pub(crate) fn near(&self) -> &End {
        &self.near
    }

    pub(crate) fn far(&self) -> &End {
        &self.far
    }

    pub(crate) fn wire(&self) -> Option<Arc<Wire>> {
        self.wire.clone()
    }

    /// Runs `ip` commands at the far end, now and whenever the cable is plugged in again. They must bear repetition.
    pub(crate) fn configure_far(&self, batch: &str) -> Result<(), Error> {
        let mut settings = self.far_settings.lock().unwrap_or_else(PoisonError::into_inner);
        self.far.namespace.ip(batch)?;
        settings.push_str(batch);
        Ok(())
    }

    /// Pulls the cable: the near end loses its carrier and keeps its addresses and routes.
    pub(crate) fn down(&self) -> Result<(), Error> {
        match &self.wire {
            None => self.far.namespace.ip(&format!("link set {} down\n", self.far.interface)),
            Some(wire) => {
                wire.set_cut(true);
                self.carrier("off")
            }
        }
    }

    /// Plugs it in again.
    pub(crate) fn up(&self) -> Result<(), Error> {
        match &self.wire {
            None => {
                let settings = self.far_settings.lock().unwrap_or_else(PoisonError::into_inner);
                self.far.namespace.ip(&format!("link set {} up\n{settings}", self.far.interface))
            }
            Some(wire) => {
                self.carrier("on")?;
                wire.set_cut(false);
                Ok(())
            }
        }
    }

    fn carrier(&self, state: &str) -> Result<(), Error> {
        for end in [&self.near, &self.far] {
            end.namespace.ip(&format!("link set {} carrier {state}\n", end.interface))?;
        }
        Ok(())
    }
}
