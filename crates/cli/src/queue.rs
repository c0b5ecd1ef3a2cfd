//! Output that nobody waits for: a reader that stalls loses lines, and holds nothing up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

/// So many lines wait for a reader; an event of a broker has some hundred bytes.
pub(crate) const WAITING_MOST: usize = 1024;

/// So long a program that ends waits for a reader.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// What the thread writes.
pub(crate) enum Next<T> {
    Line(T),
    /// So many were dropped here.
    Dropped(u64),
}

struct Entry<T> {
    /// Lines that were dropped before this one.
    dropped: u64,
    line: T,
}

/// Lines on their way to a thread that writes them.
pub(crate) struct Queue<T> {
    entries: SyncSender<Entry<T>>,
    /// Since the last line that found a place.
    dropped: Arc<AtomicU64>,
    written: oneshot::Receiver<()>,
}

impl<T: Send + 'static> Queue<T> {
    /// Room for so many lines; `write` may block.
    pub(crate) fn start(most: usize, write: impl FnMut(Next<T>) + Send + 'static) -> io::Result<Self> {
        let (entries, queued) = sync_channel(most);
        let dropped = Arc::new(AtomicU64::new(0));
        let (end, written) = oneshot::channel();
        let counted = dropped.clone();
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            write_all(&queued, &counted, write);
            // Nobody may be left to hear it.
            let _ = end.send(());
        })?;
        Ok(Queue { entries, dropped, written })
    }

    /// Never waits.
    pub(crate) fn push(&self, line: T) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if let Err(TrySendError::Full(entry) | TrySendError::Disconnected(entry)) =
            self.entries.try_send(Entry { dropped, line })
        {
            self.dropped.fetch_add(entry.dropped + 1, Ordering::Relaxed);
        }
    }

    /// Waits until all is written, but not for a reader that stalls.
    pub(crate) async fn end(self) {
        drop(self.entries);
        let _ = tokio::time::timeout(WRITTEN_WITHIN, self.written).await;
    }
}

fn write_all<T>(queued: &Receiver<Entry<T>>, dropped: &AtomicU64, mut write: impl FnMut(Next<T>)) {
    let mut tell = |count: u64, line: Option<T>| {
        if count > 0 {
            write(Next::Dropped(count));
        }
        if let Some(line) = line {
            write(Next::Line(line));
        }
    };
    loop {
        let entry = match queued.try_recv() {
            Ok(entry) => entry,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                // No line may follow for long.
                tell(dropped.swap(0, Ordering::Relaxed), None);
                match queued.recv() {
                    Ok(entry) => entry,
                    Err(_) => return,
                }
            }
        };
        tell(entry.dropped, Some(entry.line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn what_a_stalled_reader_misses_is_counted_where_it_is_missing() {
        let (written, read) = channel();
        // A reader that takes nothing until it is let.
        let (let_go, stalled) = channel::<()>();
        let (at_first, reached) = channel();
        let queue = Queue::start(2, move |next| {
            at_first.send(()).unwrap();
            let _ = stalled.recv();
            written
                .send(match next {
                    Next::Line(line) => line,
                    Next::Dropped(count) => format!("{count} dropped"),
                })
                .unwrap();
        })
        .unwrap();
        let push = |text: &str| queue.push(text.to_owned());
        push("a");
        reached.recv().unwrap();
        for text in ["b", "c", "d", "e"] {
            push(text);
        }
        // One place is free as soon as the next line is being written.
        let_go.send(()).unwrap();
        reached.recv().unwrap();
        push("f");
        push("g");
        drop(let_go);
        queue.end().await;
        assert_eq!(read.iter().collect::<Vec<_>>(), ["a", "b", "c", "2 dropped", "f", "1 dropped"]);
    }
}
