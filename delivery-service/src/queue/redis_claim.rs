//! Claiming: a holder says that it lives, hears what happened in its lanes, and is leased due ones.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use common::ids::WebhookId;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    Claimed, LaneGrant, Lease, PageLimit, Place, Queue, QueueError, Release, Settle,
    redis::{RedisQueue, millis},
    redis_call::{Answer, damaged},
    redis_record as record,
};

/// How long leases live without a claim: the only process goes on within 2 s of its restart after a crash.
const LEASE: Duration = Duration::from_millis(1_800);
/// How often a process looks for dead holders and old history.
const LOOK: Duration = Duration::from_secs(1);
/// A claim that takes longer is no use.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(1);
/// The same of a shard that did not answer the last one, and how long it is left alone when it does not again:
/// others wait for the answer.
const AWAY_TIMEOUT: Duration = Duration::from_millis(500);
const LEFT_ALONE: Duration = Duration::from_secs(1);
/// For lanes that are given back on the way.
const GIVE_BACK: Duration = Duration::from_millis(200);

/// Lanes in which something happened, each once; those that were woken, and those that something was withdrawn from.
#[derive(Default)]
struct Told {
    news: Vec<WebhookId>,
    woken: Vec<WebhookId>,
    withdrawn: Vec<WebhookId>,
}

/// What a shard answered to a claim.
struct Shard {
    next_due: Option<Duration>,
    told: Told,
    given: Vec<LaneGrant>,
    /// With how much longer each is on hold.
    held: Option<Vec<(Lease, Duration)>>,
    /// When another holder may be dead.
    lapse: Option<Duration>,
}

impl RedisQueue {
    pub(super) async fn claim_all(&self, lanes: usize, page: PageLimit) -> Result<Claimed, QueueError> {
        let look = self.looks();
        let page = PageLimit { deliveries: page.deliveries.clamp(1, 2000), ..page };
        let mut unsure = self.leases.call(0..self.shards());
        // With several shards, first which have due lanes: the lanes asked for are shared among those.
        let alone = self.shards() == 1;
        let (start, away) = (Instant::now(), self.away.lock().clone());
        let asked = shards_to_ask(&away, start);
        let first = asked.into_iter().map(|(shard, limit)| async move {
            (shard, self.claim_shard(shard, if alone { lanes } else { 0 }, page, look, limit).await)
        });
        let mut answers = join_all(first).await;
        let mut lost = Vec::new();
        if !alone && lanes > 0 {
            let is_due = |(shard, answer): &(u16, Result<Shard, _>)| {
                let due = answer.as_ref().is_ok_and(|a| a.next_due == Some(Duration::ZERO));
                (due && away[usize::from(*shard)].is_none()).then_some(*shard)
            };
            let mut due: Vec<u16> = answers.iter().filter_map(is_due).collect();
            if !due.is_empty() {
                let turn = rand::random_range(0..due.len());
                due.rotate_left(turn);
            }
            let (share, rest) = (lanes / due.len().max(1), lanes % due.len().max(1));
            let limit = (CLAIM_TIMEOUT.saturating_sub(start.elapsed())).max(AWAY_TIMEOUT / 2);
            let second = due.iter().enumerate().filter_map(|(i, &shard)| {
                let lanes = share + usize::from(i < rest);
                (lanes > 0).then_some(async move {
                    (shard, self.claim_shard(shard, lanes, page, false, limit).await)
                })
            });
            for (shard, answer) in join_all(second).await {
                match answer {
                    Ok(answer) => {
                        if let Some((_, Ok(so_far))) = answers.iter_mut().find(|(of, _)| *of == shard) {
                            so_far.next_due = answer.next_due;
                            so_far.given = answer.given;
                            so_far.told.news.extend(answer.told.news);
                            so_far.told.woken.extend(answer.told.woken);
                            so_far.told.withdrawn.extend(answer.told.withdrawn);
                        }
                    }
                    // What it granted, if anything, is found again.
                    Err(error) => {
                        tracing::warn!(shard, %error, "could not claim lanes");
                        lost.push(shard);
                    }
                }
            }
        }
        let mut claimed = Claimed { lease: LEASE, ..Claimed::default() };
        let mut orphans = Vec::new();
        let lapse = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()?.lapse).min();
        claimed.next_due = self.look_after(lapse);
        for (shard, answer) in &answers {
            if let Ok(Shard { held: Some(held), .. }) = answer {
                let leases: Vec<_> = held.iter().map(|(lease, _)| *lease).collect();
                let lost = self.leases.orphans(*shard, self.shards(), &leases, Instant::now());
                orphans.extend(held.iter().filter(|(lease, _)| lost.contains(lease)));
            }
        }
        if !orphans.is_empty() && timeout(GIVE_BACK, self.give_back(orphans)).await.is_err() {
            tracing::warn!("giving lanes back takes long; will try again");
        }
        // From here on nothing is awaited: the caller learns of its leases for certain.
        claimed.away = (0..self.shards()).collect();
        let mut failure = None;
        for (shard, answer) in answers {
            if !alone {
                let silent = matches!(answer, Err(QueueError::Unavailable(_))) || lost.contains(&shard);
                self.away.lock()[usize::from(shard)] = silent.then(|| match away[usize::from(shard)] {
                    None => start,
                    Some(_) => Instant::now() + LEFT_ALONE,
                });
            }
            match answer {
                Ok(answer) => {
                    claimed.away.retain(|away| *away != shard);
                    if !lost.contains(&shard) {
                        unsure.known(shard);
                    }
                    for lane in &answer.given {
                        self.leases.granted(lane.lane);
                    }
                    claimed.next_due = [claimed.next_due, answer.next_due].into_iter().flatten().min();
                    claimed.news.extend(answer.told.news);
                    claimed.woken.extend(answer.told.woken);
                    claimed.withdrawn.extend(answer.told.withdrawn);
                    claimed.lanes.extend(answer.given);
                }
                Err(error) => failure = Some(error),
            }
        }
        if claimed.away.len() < usize::from(self.shards()) {
            return Ok(claimed);
        }
        // Nobody else would be kept waiting.
        self.away.lock().fill(None);
        match failure {
            Some(error) => Err(error),
            None => Err(QueueError::Unavailable("Redis has not answered for a while".into())),
        }
    }

    /// Whether it is time to look for dead holders and old history.
    fn looks(&self) -> bool {
        let offset = self.offset_ms.load(Ordering::Relaxed);
        let mut looked = self.looked.lock();
        let now = Instant::now();
        let due = looked.1 != offset || now.duration_since(looked.0) >= LOOK;
        if due {
            *looked = (now, offset);
        }
        due
    }

    /// Looks again when a holder may be dead, if that is before the next look; the caller is told when.
    fn look_after(&self, lapse: Option<Duration>) -> Option<Duration> {
        let lapse = lapse.filter(|lapse| *lapse < LOOK)?;
        let mut looked = self.looked.lock();
        looked.0 = (Instant::now() + lapse).checked_sub(LOOK)?;
        Some(lapse)
    }

    async fn claim_shard(
        &self,
        shard: u16,
        lanes: usize,
        page: PageLimit,
        look: bool,
        limit: Duration,
    ) -> Result<Shard, QueueError> {
        let unsure = self.leases.is_unsure(shard);
        let mut call = self.begin(&self.verbs.claim, shard)?;
        call.arg(lanes).arg(page.deliveries).arg(page.bytes).arg(u8::from(page.early)).arg(u8::from(look));
        call.arg(LEASE.as_millis() as u64)
            .arg(millis(self.limits.ended_age))
            .arg(millis(self.limits.failed_age));
        call.arg(u8::from(unsure)).arg(millis(self.limits.dedupe_window).max(1));
        call.arg(self.turns.lock().get(usize::from(shard)).map_or("0", |turn| turn));
        call.arg(u8::from(self.leases.asks(shard)));
        let mut answer = Answer::of(self.verbs.claim.run(&self.connection, call, limit).await?)?;
        let next_due = record::duration(answer.number()?);
        let mut news = answer.array()?;
        let told = told(&mut news)?;
        self.leases.hears(shard);
        let mut given = answer.array()?;
        let given = (0..given.left()).map(|_| grant(given.array()?)).collect::<Result<_, QueueError>>()?;
        let mut broken = answer.array()?;
        while broken.left() > 1 {
            let webhook = WebhookId::from_bytes(broken.id()?);
            let reason = String::from_utf8_lossy(&broken.bytes()?.unwrap_or_default()).into_owned();
            tracing::error!(%webhook, reason, "a lane in Redis is damaged and waits until it is woken");
        }
        let mut held = answer.array()?;
        let mut leases = Vec::with_capacity(held.left() / 3);
        while held.left() > 2 {
            let webhook_id = WebhookId::from_bytes(held.id()?);
            let lease = Lease { webhook_id, fence: held.number()?.max(0) as u64 };
            leases.push((lease, record::duration(held.number()?).unwrap_or_default()));
        }
        let lapse = record::duration(answer.number()?);
        if let (Some(turn), Some(next)) = (self.turns.lock().get_mut(usize::from(shard)), answer.bytes()?) {
            *turn = String::from_utf8_lossy(&next).into_owned();
        }
        Ok(Shard { next_due, told, given, held: unsure.then_some(leases), lapse })
    }

    /// Gives back lanes that the store has granted and nobody here has heard of.
    async fn give_back(&self, orphans: Vec<(Lease, Duration)>) {
        tracing::warn!(lanes = orphans.len(), "gives back lanes whose lease was granted by a lost answer");
        let release = |(lane, hold): (Lease, Duration)| Settle {
            lane,
            deliveries: Vec::new(),
            done_to: Place(0),
            memo: None,
            // One that was granted past its hold, for what was asked for, is on hold still.
            release: Some(match hold {
                Duration::ZERO => Release::Free { known: Place(0), unread: true },
                duration => Release::Hold { duration },
            }),
        };
        let settles = Arc::new(orphans.into_iter().map(release).collect());
        if let Err(error) = self.settle(settles).await {
            tracing::warn!(%error, "could not give lanes back; will try again");
        }
    }
}

/// Which shards a claim goes to, and how long each may take.
fn shards_to_ask(away: &[Option<Instant>], now: Instant) -> Vec<(u16, Duration)> {
    let limit = |again: &Option<Instant>| match again {
        None => Some(CLAIM_TIMEOUT),
        Some(again) => (now >= *again).then_some(AWAY_TIMEOUT),
    };
    (0..).zip(away).filter_map(|(shard, again)| Some((shard, limit(again)?))).collect()
}

/// What was woken or withdrawn from stands with a mark behind.
fn told(news: &mut Answer) -> Result<Told, QueueError> {
    let (mut lanes, mut told) = (HashSet::new(), Told::default());
    while news.left() > 0 {
        let mut lane = news.bytes()?.unwrap_or_default();
        let mark = lane.get(16).copied();
        lane.truncate(16);
        let lane = lane.as_slice().try_into().map_err(|_| damaged("an id that is none"))?;
        let lane = WebhookId::from_bytes(lane);
        match mark {
            Some(b'c') => told.withdrawn.push(lane),
            Some(b'w') => told.woken.push(lane),
            _ => {}
        }
        if mark != Some(b'c') {
            lanes.insert(lane);
        }
    }
    told.news.extend(lanes);
    Ok(told)
}

fn grant(mut answer: Answer) -> Result<LaneGrant, QueueError> {
    let webhook_id = WebhookId::from_bytes(answer.id()?);
    let fence = answer.number()?.max(0) as u64;
    Ok(LaneGrant {
        lane: Lease { webhook_id, fence },
        license_code: String::from_utf8(answer.bytes()?.unwrap_or_default())
            .map_err(|_| damaged("a license code that is no text"))?,
        held: record::duration(answer.number()?).unwrap_or_default(),
        memo: answer.bytes()?.unwrap_or_default().into(),
        page: record::page(answer.value()?)?,
    })
}
