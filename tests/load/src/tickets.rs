//! Which event is published when. Closed: as soon as a publisher is free. Open: at a rate, whatever the
//! answers take, and latencies count from when an event was due, so that a slow answer is not hidden
//! by the events that it kept from being sent.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, Notify, mpsc};

use crate::receiver::now_us;

/// A sleeper wakes up late: tickets come so long before they are due, a tenth of the time between two at most. What a
/// publisher does before it calls is done then, and it stays awake until they are due.
const AWAKE: Duration = Duration::from_millis(1);

/// An event that is to be published.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    /// From 0.
    pub n: u64,
    /// When it is due, µs since 1970.
    pub due_us: u64,
}

pub struct Tickets {
    next: AtomicU64,
    most: u64,
    until: Instant,
    paced: Option<Mutex<mpsc::Receiver<Ticket>>>,
    paused: AtomicBool,
    resumed: Notify,
    stopped: AtomicBool,
}

impl Ticket {
    /// Waits until it is due. Answers are taken meanwhile.
    pub async fn due(self) {
        while now_us() < self.due_us {
            tokio::task::yield_now().await;
        }
    }
}

impl Tickets {
    /// So many events at most, for so long at most.
    pub fn new(rate: Option<f64>, most: u64, time: Duration) -> Self {
        Self {
            next: AtomicU64::default(),
            most,
            until: Instant::now() + time,
            paced: rate.map(|rate| Mutex::new(paced(rate, most, time))),
            paused: AtomicBool::default(),
            resumed: Notify::new(),
            stopped: AtomicBool::default(),
        }
    }

    /// The next event, a little before it is due; None at the end.
    pub async fn next(&self) -> Option<Ticket> {
        if let Some(paced) = &self.paced {
            let ticket = paced.lock().await.recv().await;
            return ticket.filter(|_| !self.stopped.load(Relaxed));
        }
        while self.paused.load(Relaxed) && Instant::now() < self.until {
            let resumed = self.resumed.notified();
            let _ = tokio::time::timeout(Duration::from_millis(20), resumed).await;
        }
        let n = self.next.fetch_add(1, Relaxed);
        (n < self.most && Instant::now() < self.until).then(|| Ticket { n, due_us: now_us() })
    }

    /// Open: no more from now on.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Closed: no more until it is resumed.
    pub fn pause(&self, paused: bool) {
        if self.paused.swap(paused, Relaxed) && !paused {
            self.resumed.notify_waiters();
        }
    }
}

/// A thread of its own keeps the pace: the runtime's timers count in whole milliseconds. Tickets come a little before
/// they are due.
#[allow(clippy::disallowed_methods, reason = "a thread that does nothing else")]
fn paced(rate: f64, most: u64, time: Duration) -> mpsc::Receiver<Ticket> {
    let (sender, tickets) = mpsc::channel(1 << 16);
    thread::spawn(move || {
        let (start, start_us) = (Instant::now(), now_us());
        let awake = AWAKE.min(Duration::from_secs_f64(0.1 / rate));
        for n in 0..most {
            let due = Duration::from_secs_f64(n as f64 / rate);
            if due >= time {
                break;
            }
            if let Some(early) = due.checked_sub(start.elapsed() + awake) {
                thread::sleep(early);
            }
            let due_us = start_us + due.as_micros() as u64;
            if sender.blocking_send(Ticket { n, due_us }).is_err() {
                break;
            }
        }
    });
    tickets
}
