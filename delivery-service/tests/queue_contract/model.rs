//! A short random run, on a store of its own: holders that publish, claim, read and settle as the
//! contract has them do, callers that retry, cancel and wake, answers that are lost, crashes. The oracle
//! hears of all. A run that fails prints its seed and its operations.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::ids::WebhookId;
use delivery_service::{
    delivery::{Fault, Place},
    queue::{
        Fate, LaneGrant, LaneNow, Lanes, Lease, New, PageLimit, Queue, Release, Settle, Stored, Waiting,
    },
};
use rand::{RngExt, rngs::StdRng};

use crate::{
    bench::{Backend, lane, sharing},
    holder::{Holder, Work},
    oracle::Oracle,
};

const LANES: u64 = 3;
const SECOND: Duration = Duration::from_secs(1);
pub const WINDOW: Duration = Duration::from_millis(20_500);
/// Open deliveries that a lane takes.
pub const BACKLOG: u64 = 9;
/// Redis' clock goes on during a run, and times are told apart by half seconds: a run is judged for so long.
const IN_TIME: Duration = Duration::from_millis(400);

pub struct Run<'b, B> {
    pub backend: &'b B,
    pub start: std::time::Instant,
    pub random: StdRng,
    pub oracle: Oracle,
    pub holders: Vec<Holder>,
    /// When each holder that ever was has claimed, and for how long that is good; ms.
    pub beats: Vec<(i64, i64)>,
    pub published: Vec<New>,
    pub settles: Vec<Settle>,
    pub trace: Trace,
}

pub struct Trace(pub u64, pub Vec<String>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\nHOOKLINE_SEED={} repeats it", self.1.join("\n"), self.0);
        }
    }
}

impl<B: Backend> Run<'_, B> {
    pub fn says(&mut self, what: String) {
        self.trace.1.push(format!("{:>7} {what}", self.oracle.now));
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub fn any(&mut self, of: usize) -> usize {
        self.random.random_range(0..of)
    }

    pub fn lane(&mut self) -> WebhookId {
        lane(self.random.random_range(0..LANES))
    }

    /// None when the run is late: nothing is judged any more.
    pub fn in_time(&self) -> Option<()> {
        (B::HOLDERS == 1 || self.start.elapsed() < IN_TIME).then_some(())
    }

    /// A time to wait, in half seconds.
    fn some_time(&mut self) -> Duration {
        SECOND * self.random.random_range(0..6) + SECOND / 2
    }

    fn limit(&mut self) -> PageLimit {
        let deliveries = [1, 2, 3, 100][self.any(4)];
        let bytes = if self.chance(20) { 10 } else { 1 << 20 };
        PageLimit { deliveries, bytes, early: self.chance(3) }
    }

    pub async fn open(&mut self) -> Option<()> {
        let queue = self.backend.open().await;
        self.join(queue).await
    }

    pub async fn join(&mut self, queue: Arc<dyn Queue>) -> Option<()> {
        let me = self.beats.len();
        self.beats.push((self.oracle.now, i64::MAX));
        self.holders.push(Holder { me, queue, lanes: BTreeMap::new() });
        self.claim(self.holders.len() - 1, 0).await
    }

    async fn publish(&mut self, at: usize) -> Option<()> {
        if self.beats[self.holders[at].me].0 < self.oracle.now {
            self.claim(at, 0).await?;
        }
        let (mut batch, first, share) = (Vec::new(), self.published.len() as u64 + 1, self.chance(50));
        for n in 0..=self.any(3) {
            let (lane, queue) = (self.lane(), &*self.holders[at].queue);
            let mut new = match share {
                true => sharing(queue, lane, first, n as u8 + 1),
                false => sharing(queue, lane, first + n as u64, 0),
            };
            if self.chance(30) && !self.published.is_empty() {
                let first = self.any(self.published.len());
                new.head.event_id.clone_from(&self.published[first].head.event_id);
            }
            new.failed = self.chance(4).then_some(Fault::Disabled);
            self.published.push(new.clone());
            batch.push(new);
        }
        let batch = Arc::new(batch);
        let stored = self.holders[at].queue.enqueue(batch.clone()).await;
        self.in_time()?;
        let lost = self.chance(6);
        self.says(format!("{at} publishes, lost {lost}"));
        let mut given = Vec::new();
        for (new, stored) in batch.iter().zip(stored) {
            let (id, lane, stored) = (new.head.id(), new.head.webhook_id(), stored.unwrap());
            self.says(format!("  {id} {} in {lane}: {stored:?}", new.head.event_id));
            let Holder { me, lanes, .. } = &mut self.holders[at];
            self.oracle.stored(*me, new, &stored);
            let Stored::New { place, before, lane: LaneNow::Mine { fence, .. } } = stored else { continue };
            let lease = Lease { webhook_id: lane, fence };
            let known = lanes.get(&lane).is_some_and(|work| work.lease == lease);
            if !known && lost {
                given.push(lease);
            } else if !known {
                lanes.insert(lane, Work::new(lease, before));
            }
            let Some(work) = lanes.get_mut(&lane).filter(|work| work.lease == lease) else { continue };
            if lost {
                work.unread = true;
            } else if work.tail != before {
                (work.unread, work.last) = (true, place);
            } else {
                (work.tail, work.last) = (place, place);
                let (head, body) = (new.head.clone(), new.body.clone());
                work.pending.insert(id, Waiting { head, body, place, scheduled: false });
            }
        }
        given.dedup();
        self.give_back(at, given).await
    }

    /// Gives leases back that nobody has heard of, as the backends do.
    async fn give_back(&mut self, at: usize, leases: Vec<Lease>) -> Option<()> {
        for lease in leases {
            let release = Some(Release::Free { known: Place(0), unread: true });
            let settle = Settle { lane: lease, deliveries: vec![], done_to: Place(0), memo: None, release };
            self.settle(at, settle).await?;
        }
        Some(())
    }

    /// What the store says of a settle of one lane.
    pub async fn settle(&mut self, at: usize, settle: Settle) -> Option<bool> {
        let settled = self.holders[at].queue.settle(Arc::new(vec![settle.clone()])).await.unwrap().remove(0);
        self.in_time()?;
        let fates: Vec<_> = settle.deliveries.iter().map(|one| (one.head.id(), one.fate)).collect();
        self.says(format!("{at} settles {:?} {fates:?} {:?}: {settled:?}", settle.lane, settle.release));
        self.oracle.settled(self.holders[at].me, &settle, settled);
        if let (Some(memo), Ok(())) = (settle.memo, settled)
            && let Some(lane) = self.oracle.lanes.get_mut(&settle.lane.webhook_id)
        {
            lane.memo = memo;
        }
        Some(settled.is_ok())
    }

    async fn claim(&mut self, at: usize, lanes: usize) -> Option<()> {
        let (limit, lost) = (self.limit(), self.chance(5));
        let claimed = self.holders[at].queue.claim(lanes, limit).await.unwrap();
        self.in_time()?;
        self.says(format!("{at} claims {lanes}, lost {lost}: {claimed:?}"));
        let (me, now) = (self.holders[at].me, self.oracle.now);
        let beats = &mut self.beats;
        self.oracle.lapse(|holder| now - beats[holder].0 >= beats[holder].1);
        beats[me] = (now, claimed.lease.as_millis() as i64);
        self.oracle.claimed(me, &claimed, limit);
        assert!(claimed.lanes.len() <= lanes);
        let holder = &mut self.holders[at];
        for work in holder.lanes.values_mut() {
            let id = &work.lease.webhook_id;
            work.unread |= lost || claimed.news.contains(id) || claimed.withdrawn.contains(id);
        }
        let given = claimed.lanes.iter().map(|grant| grant.lane).filter(|_| lost).collect();
        for LaneGrant { lane, page, .. } in claimed.lanes.into_iter().filter(|_| !lost) {
            // All that is fresh comes after this: the page says how far it has been read.
            let mut work = Work::new(lane, Place(0));
            work.read(page);
            holder.lanes.insert(lane.webhook_id, work);
        }
        self.give_back(at, given).await
    }

    fn held(&mut self, at: usize) -> Option<WebhookId> {
        let lanes: Vec<_> = self.holders[at].lanes.keys().copied().collect();
        (!lanes.is_empty()).then(|| lanes[self.any(lanes.len())])
    }

    async fn read(&mut self, at: usize) -> Option<()> {
        let Some(lane) = self.held(at) else { return Some(()) };
        if self.holders[at].lanes[&lane].again.is_some() {
            return self.work_on(at, lane).await;
        }
        let (limit, looks) = (self.limit(), self.chance(20));
        let Holder { me, queue, lanes } = &mut self.holders[at];
        let (work, me) = (&lanes[&lane], *me);
        let (lease, tail) = (work.lease, work.tail);
        let known = work.pending.values().filter(|waiting| waiting.scheduled).count();
        let mine = self.oracle.lanes[&lane].held == Some(me) && self.oracle.lanes[&lane].fence == lease.fence;
        if looks {
            let scan = queue.scan(lease, tail, 2).await.unwrap();
            self.in_time()?;
            assert_eq!(scan.is_ok(), mine, "who has the lane reads it");
            scan.iter().for_each(|scan| self.oracle.scanned(lane, scan, tail, 2));
            return Some(());
        }
        let read = queue.read(lease, tail, known, limit).await.unwrap();
        self.in_time()?;
        self.says(format!("{at} reads {lease:?} after {tail:?} knowing {known}, {limit:?}: {read:?}"));
        assert_eq!(read.is_ok(), mine, "who has the lane reads it");
        let lanes = &mut self.holders[at].lanes;
        match read {
            Ok(page) => {
                self.oracle.page(me, lane, &page, tail, known, limit);
                // What is new has been in this page, or is after it.
                self.oracle.lanes.get_mut(&lane).unwrap().untold = false;
                lanes.get_mut(&lane).unwrap().read(page);
            }
            Err(_) => drop(lanes.remove(&lane)),
        }
        Some(())
    }

    /// Tries some of what a holder has, and perhaps gives the lane back.
    async fn work(&mut self, at: usize) -> Option<()> {
        let Some(lane) = self.held(at) else { return Some(()) };
        self.work_on(at, lane).await
    }

    async fn work_on(&mut self, at: usize, lane: WebhookId) -> Option<()> {
        let ids: Vec<_> = self.holders[at].lanes[&lane].pending.keys().copied().collect();
        let mut fates = Vec::new();
        for id in ids {
            let fate = match self.any(12) {
                0..3 => continue,
                3..5 => Fate::Failed,
                5 => Fate::Cancelled,
                6 => Fate::Retry { after: Duration::ZERO },
                7..9 => Fate::Retry { after: self.some_time() },
                _ => Fate::Succeeded,
            };
            fates.push((id, fate));
        }
        let release = match self.any(8) {
            0 => Some(Release::Hold { duration: self.some_time() }),
            1 => Some(Release::Park),
            2 | 3 => Some(Release::Free { known: Place(0), unread: true }),
            _ => None,
        };
        let memo = self.chance(10).then(|| ["", "circuit"][self.any(2)].into());
        let lost = self.chance(8);
        let work = self.holders[at].lanes.get_mut(&lane).unwrap();
        let settle = work.again.take().unwrap_or_else(|| Settle { memo, ..work.settle(fates, release) });
        if lost {
            work.again = Some(settle.clone());
        }
        self.settles.push(settle.clone());
        let over = settle.release.is_some();
        let held = self.settle(at, settle).await?;
        if !lost && (over || !held) {
            self.holders[at].lanes.remove(&lane);
        }
        Some(())
    }

    async fn pass(&mut self) -> Option<()> {
        let by = if self.chance(10) { SECOND * 70 } else { SECOND };
        self.backend.advance(by).await;
        self.oracle.now += by.as_millis() as i64;
        // One at least looks who is silent.
        let first = self.any(self.holders.len());
        self.claim(first, 0).await?;
        for at in 0..self.holders.len() {
            if self.chance(60) {
                self.claim(at, 0).await?;
            }
        }
        Some(())
    }

    pub async fn step(&mut self) -> Option<()> {
        let at = self.any(self.holders.len());
        match self.any(100) {
            0..26 => self.publish(at).await,
            26..38 => {
                let lanes = self.any(3) + 1;
                self.claim(at, lanes).await
            }
            38..48 => self.read(at).await,
            48..68 => self.work(at).await,
            68..72 => self.late(at).await,
            72..80 => self.pass().await,
            80..84 => self.ask_again(at).await,
            84..87 => self.cancel(at).await,
            87..91 => self.bulk(at).await,
            91..95 => self.wake(at).await,
            95..99 => self.look(at).await,
            _ if self.chance(40) => self.crash(at).await,
            _ => Some(()),
        }
    }

    /// The end: whatever is open is delivered, by one that takes what is due.
    pub async fn drain(&mut self) -> Option<()> {
        self.holders[0].queue.wake(Lanes::Parked).await.unwrap();
        self.oracle.woken(Lanes::Parked);
        self.backend.advance(SECOND * 70).await;
        self.oracle.now += 70_000;
        for _ in 0..200 {
            self.claim(0, 3).await?;
            let lanes: Vec<_> = self.holders[0].lanes.keys().copied().collect();
            if lanes.is_empty() && (0..LANES).all(|number| self.oracle.open(lane(number)).is_empty()) {
                break;
            }
            for lane in lanes {
                let work = self.holders[0].lanes.get_mut(&lane).unwrap();
                let all = work.pending.keys().map(|id| (*id, Fate::Succeeded)).collect();
                let settle = work.settle(all, Some(Release::Free { known: Place(0), unread: false }));
                self.settle(0, settle).await?;
                self.holders[0].lanes.remove(&lane);
            }
        }
        for lane in (0..LANES).map(lane) {
            assert!(self.oracle.open(lane).is_empty(), "left behind: {:?}", self.oracle.open(lane));
        }
        let ids: Vec<_> = self.oracle.all.keys().copied().collect();
        for id in ids {
            self.oracle.found(id, self.holders[0].queue.get(id).await.unwrap().as_ref());
        }
        self.look(0).await
    }
}
