//! The door: the one local port of links, listener and connects, and its successor when the
//! network has changed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::rngs::StdRng;

use tcpunch_core::limits::DOORS;

use crate::endpoint::Task;
use crate::listener::Router;
use crate::port::{Families, Port, PortError};

pub(crate) struct Door {
    router: Arc<Router>,
    families: Families,
    /// The only port that may be used.
    wish: Option<u16>,
    open: Mutex<Open>,
}

struct Open {
    number: u16,
    listening: VecDeque<Task>,
}

impl Door {
    /// Takes the port, or a random free one, and listens there.
    ///
    /// # Errors
    ///
    /// The port can't be had.
    pub(crate) fn open(
        wish: Option<u16>,
        families: Families,
        router: Arc<Router>,
    ) -> Result<Self, PortError> {
        let port = Port::acquire(wish, families, &mut StdRng::from_os_rng())?;
        let open = Open { number: port.number(), listening: VecDeque::new() };
        let door = Door { router, families, wish, open: Mutex::new(open) };
        door.listen(port);
        Ok(door)
    }

    /// The present port.
    pub(crate) fn number(&self) -> u16 {
        self.lock().number
    }

    /// Moves to another port, unless one was wished for.
    ///
    /// NATs and the kernels of peers may still hold connections from the old port. Where the addresses are the same as
    /// before, new ones from it would meet those (measured after 40 s without a cable: a chat was back after 22 s from
    /// the same port, after 1 s from another).
    pub(crate) fn renew(&self) {
        if self.wish.is_some() {
            return;
        }
        match Port::acquire(None, self.families, &mut StdRng::from_os_rng()) {
            Ok(port) => self.listen(port),
            Err(error) => tracing::warn!("the old port is kept: {error}"),
        }
    }

    fn listen(&self, port: Port) {
        let mut open = self.lock();
        open.number = port.number();
        let task = tokio::spawn(self.router.clone().serve(Arc::new(port)));
        open.listening.push_back(Task(task.abort_handle()));
        if open.listening.len() > DOORS {
            open.listening.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(port: u16) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_door_leaves_the_last_one_open() {
        let door = Door::open(None, Families::default(), Router::new()).unwrap();
        let first = door.number();
        door.renew();
        let second = door.number();
        assert_ne!(first, second);
        assert!(listens(first) && listens(second));
        door.renew();
        // The task of the first ends when it is next polled.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while listens(first) && std::time::Instant::now() < until {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(!listens(first) && listens(second) && listens(door.number()));
    }

    #[tokio::test]
    async fn a_port_that_was_wished_for_stays() {
        let free = Port::acquire(None, Families::default(), &mut StdRng::from_os_rng()).unwrap().number();
        let door = Door::open(Some(free), Families::default(), Router::new()).unwrap();
        door.renew();
        assert_eq!(door.number(), free);
    }
}
