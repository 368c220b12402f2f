//! The embedded backend, with a clock by hand. A crash is a copy of its files as the disk has them,
//! without the goodbye of the process that wrote them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use common::clock::{Clock, Time};
use delivery_service::queue::{Limits, Queue, disk::DiskQueue};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::bench::Backend;

pub struct Disk {
    folder: Mutex<TempDir>,
    clock: Clock,
    limits: Limits,
}

impl Disk {
    fn open_here(&self) -> Arc<dyn Queue> {
        let folder = self.folder.lock();
        DiskQueue::open(folder.path(), self.clock.clone(), self.limits.clone(), 0).unwrap()
    }
}

/// A folder that costs no flushes, where there is one.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[async_trait]
impl Backend for Disk {
    const HOLDERS: usize = 1;
    const RUNS: u64 = 1_500;

    async fn start(limits: Limits) -> Self {
        let folder = Mutex::new(tempfile::tempdir().unwrap());
        Self { folder, clock: Clock::by_hand(Time(1_800_000_000_000)), limits }
    }

    async fn renew(&mut self) {
        *self.folder.get_mut() = in_memory();
        self.clock = Clock::by_hand(Time(1_800_000_000_000));
    }

    async fn open(&self) -> Arc<dyn Queue> {
        self.open_here()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn crash(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        let copy = tempfile::tempdir_in(self.folder.lock().path().parent().unwrap()).unwrap();
        // The journal first: what a checkpoint takes out of it meanwhile is in the file.
        for file in ["queue.journal", "queue.redb"] {
            std::fs::copy(self.folder.lock().path().join(file), copy.path().join(file)).unwrap();
        }
        drop(queue);
        *self.folder.lock() = copy;
        self.open_here()
    }
}
