//! The embedded queue's tables: their keys, which sort as they are read, and their values.

use bytes::Bytes;
use common::{
    clock::Time,
    ids::{DeliveryId, WebhookId},
};
use prost::Message;
use redb::{ReadTransaction, ReadableTable, StorageError, TableDefinition, TableError, WriteTransaction};

use super::{
    QueueError,
    disk_bodies::Bodies,
    disk_changes::{Change, Changes},
    disk_field::{near, same_start},
    disk_lane_rows::LaneRows,
    disk_layer::Layer,
    disk_ordered::Ordered,
};
use crate::delivery::{Head, Place};

pub(super) type ById<V> = TableDefinition<'static, &'static [u8; 16], V>;
pub(super) type ByPlace<V> = TableDefinition<'static, &'static [u8; 24], V>;

pub(super) const HEADS: ById<&[u8]> = ById::new("heads");
pub(super) const BODIES: ById<&[u8]> = ById::new("bodies");
pub(super) const FRESH: ByPlace<&[u8; 16]> = ByPlace::new("fresh");
pub(super) const RETRYING: ByPlace<&[u8; 16]> = ByPlace::new("retrying");
pub(super) const SCHEDULED: TableDefinition<&[u8; 32], &[u8; 16]> = TableDefinition::new("scheduled");
pub(super) const ENDED: ByPlace<&[u8; 24]> = ByPlace::new("ended");
pub(super) const FAILED: ByPlace<&[u8; 24]> = ByPlace::new("failed");
pub(super) const EVENTS: TableDefinition<&[u8], &[u8; 24]> = TableDefinition::new("events");
pub(super) const EXPIRIES: ById<&[u8]> = ById::new("expiries");
pub(super) const LANES: ById<&[u8]> = ById::new("lanes");
pub(super) const STOPPED: ById<i64> = ById::new("stopped");
pub(super) const BULK: ById<&[u8; 16]> = ById::new("bulk");
pub(super) const ACCOUNTS: TableDefinition<&[u8], ()> = TableDefinition::new("accounts");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// In `STOPPED`: parked, rather than on hold until a time.
pub(super) const PARKED: i64 = i64::MAX;

/// In `SCHEDULED`: asked for by a caller, so before all that have a time.
pub(super) const ASKED: i64 = 0;

/// All tables, open for writing, with what has changed in them since the last flush. Each has a number in
/// the journal.
pub(super) struct Tables<'t> {
    pub heads: Layer<'t, &'static [u8; 16], &'static [u8]>,
    pub bodies: Bodies<'t>,
    pub events: Layer<'t, &'static [u8], &'static [u8; 24]>,
    pub lanes: LaneRows<'t>,
    pub fresh: Ordered<'t, &'static [u8; 24], &'static [u8; 16]>,
    pub retrying: Ordered<'t, &'static [u8; 24], &'static [u8; 16]>,
    pub scheduled: Ordered<'t, &'static [u8; 32], &'static [u8; 16]>,
    pub ended: Ordered<'t, &'static [u8; 24], &'static [u8; 24]>,
    pub failed: Ordered<'t, &'static [u8; 24], &'static [u8; 24]>,
    pub expiries: Ordered<'t, &'static [u8; 16], &'static [u8]>,
    pub stopped: Ordered<'t, &'static [u8; 16], i64>,
    pub bulk: Ordered<'t, &'static [u8; 16], &'static [u8; 16]>,
    pub accounts: Ordered<'t, &'static [u8], ()>,
}

impl<'t> Tables<'t> {
    /// What the verbs change in them goes to `changes` too.
    pub fn open(txn: &'t WriteTransaction, changes: &Changes) -> Result<Self, TableError> {
        Ok(Self {
            heads: Layer::open(txn, 1, HEADS, changes, near)?,
            bodies: Bodies::open(txn, [2, 14], changes)?,
            events: Layer::open(txn, 3, EVENTS, changes, same_start)?,
            lanes: LaneRows::open(txn, 4, changes)?,
            fresh: Ordered::open(txn, 5, FRESH, changes)?.once(),
            retrying: Ordered::open(txn, 6, RETRYING, changes)?.once(),
            scheduled: Ordered::open(txn, 7, SCHEDULED, changes)?.once(),
            ended: Ordered::open(txn, 8, ENDED, changes)?.once(),
            failed: Ordered::open(txn, 9, FAILED, changes)?.once(),
            expiries: Ordered::open(txn, 10, EXPIRIES, changes)?.once(),
            stopped: Ordered::open(txn, 11, STOPPED, changes)?,
            bulk: Ordered::open(txn, 12, BULK, changes)?,
            accounts: Ordered::open(txn, 13, ACCOUNTS, changes)?,
        })
    }

    /// Makes a change again that the journal has.
    pub fn replay(&mut self, change: &Change<'_>) -> Result<(), QueueError> {
        let (Change::Put(table, ..) | Change::Remove(table, _) | Change::RemoveRange(table, ..)) = *change;
        match table {
            1 => self.heads.replay(change),
            2 => self.bodies.rows.replay(change),
            3 => self.events.replay(change),
            4 => self.lanes.replay(change),
            5 => self.fresh.replay(change),
            6 => self.retrying.replay(change),
            7 => self.scheduled.replay(change),
            8 => self.ended.replay(change),
            9 => self.failed.replay(change),
            10 => self.expiries.replay(change),
            11 => self.stopped.replay(change),
            12 => self.bulk.replay(change),
            13 => self.accounts.replay(change),
            14 => self.bodies.sharers.replay(change),
            _ => Err(QueueError::Damaged(format!("a record of the journal names table {table}"))),
        }
    }

    /// What has changed since the last flush takes so much memory, about.
    pub fn held_bytes(&self) -> usize {
        let by_id = self.heads.held_bytes() + self.bodies.held_bytes() + self.events.held_bytes();
        let history = self.ended.held_bytes() + self.failed.held_bytes();
        let open = self.fresh.held_bytes() + self.retrying.held_bytes() + self.scheduled.held_bytes();
        by_id + self.lanes.held_bytes() + history + open
    }

    /// Writes into the tables what has changed.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        self.heads.flush()?;
        self.bodies.flush()?;
        self.events.flush()?;
        self.lanes.flush()?;
        for lists in [&mut self.fresh, &mut self.retrying] {
            lists.flush()?;
        }
        self.scheduled.flush()?;
        for history in [&mut self.ended, &mut self.failed] {
            history.flush()?;
        }
        self.expiries.flush()?;
        self.stopped.flush()?;
        self.bulk.flush()?;
        self.accounts.flush()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Fresh = 0,
    Scheduled = 1,
    Ended = 2,
    Failed = 3,
}

/// What stands before a head in `HEADS`: where the delivery is among the indexes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub kind: Kind,
    pub place: Place,
    /// The time in its `SCHEDULED` key.
    pub due: i64,
    pub body_bytes: u32,
    /// As its head has them: an attempt with fewer did not know that it was asked for again.
    pub renewals: u32,
}

const MARK: usize = 25;

impl Mark {
    pub fn with(self, head: &Head) -> Bytes {
        let mut value = Vec::with_capacity(MARK + head.encoded_len());
        value.push(self.kind as u8);
        value.extend(self.place.0.to_be_bytes());
        value.extend(self.due.to_be_bytes());
        value.extend(self.body_bytes.to_be_bytes());
        value.extend(head.renewals.to_be_bytes());
        // Cannot fail: a Vec grows.
        let _ = head.encode(&mut value);
        value.into()
    }

    pub fn read(value: &[u8]) -> Result<Self, QueueError> {
        let short = || QueueError::Damaged("a delivery's record is cut short".into());
        let number =
            |from: usize| value.get(from..from + 8).and_then(|b| b.try_into().ok()).ok_or_else(short);
        let small = |from: usize| value.get(from..from + 4).and_then(|b| b.try_into().ok()).ok_or_else(short);
        let kind = match value.first() {
            Some(0) => Kind::Fresh,
            Some(1) => Kind::Scheduled,
            Some(2) => Kind::Ended,
            Some(3) => Kind::Failed,
            _ => return Err(short()),
        };
        Ok(Self {
            kind,
            place: Place(u64::from_be_bytes(number(1)?)),
            due: i64::from_be_bytes(number(9)?),
            body_bytes: u32::from_be_bytes(small(17)?),
            renewals: u32::from_be_bytes(small(21)?),
        })
    }

    pub fn read_all(value: &[u8]) -> Result<(Self, Head), QueueError> {
        let mark = Self::read(value)?;
        let head =
            Head::decode(value.get(MARK..).unwrap_or_default()).map_err(|e| damaged("a delivery", e))?;
        Ok((mark, head))
    }
}

pub(super) fn at(lane: WebhookId, place: Place) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&lane.bytes());
    key[16..].copy_from_slice(&place.0.to_be_bytes());
    key
}

/// The first and the last key of a lane's places from `from` on.
pub(super) fn places(lane: WebhookId, from: Place) -> ([u8; 24], [u8; 24]) {
    (at(lane, from), at(lane, Place(u64::MAX)))
}

/// The first and the last key of a lane's schedule.
pub(super) fn schedule(lane: WebhookId) -> ([u8; 32], [u8; 32]) {
    (due_at(lane, 0, Place(0)), due_at(lane, i64::MAX, Place(u64::MAX)))
}

pub(super) fn place_of(key: &[u8; 24]) -> Place {
    let mut place = [0; 8];
    place.copy_from_slice(&key[16..]);
    Place(u64::from_be_bytes(place))
}

pub(super) fn due_at(lane: WebhookId, due: i64, place: Place) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&lane.bytes());
    key[16..24].copy_from_slice(&due.max(0).to_be_bytes());
    key[24..].copy_from_slice(&place.0.to_be_bytes());
    key
}

pub(super) fn due_of(key: &[u8; 32]) -> i64 {
    let mut due = [0; 8];
    due.copy_from_slice(&key[16..24]);
    i64::from_be_bytes(due)
}

/// The first 16 bytes of a longer key or value.
pub(super) fn first16(bytes: &[u8]) -> [u8; 16] {
    bytes.get(..16).and_then(|b| b.try_into().ok()).unwrap_or_default()
}

/// The values of `ENDED`, `FAILED` and `EVENTS`: an id, and when it ended or is forgotten.
pub(super) fn id_and_time(id: DeliveryId, time: Time) -> [u8; 24] {
    let mut value = [0; 24];
    value[..16].copy_from_slice(&id.bytes());
    value[16..].copy_from_slice(&time.0.to_be_bytes());
    value
}

pub(super) fn time_of(value: &[u8]) -> Time {
    Time(value.get(16..24).and_then(|b| b.try_into().ok()).map_or(0, i64::from_be_bytes))
}

pub(super) fn account_key(license_code: &str, lane: [u8; 16]) -> Bytes {
    [&(license_code.len() as u32).to_be_bytes(), license_code.as_bytes(), &lane].concat().into()
}

/// The earliest time in a lane's schedule.
pub(super) fn first_due(
    scheduled: &impl ReadableTable<&'static [u8; 32], &'static [u8; 16]>,
    lane: WebhookId,
) -> Result<Option<i64>, QueueError> {
    let (from, to) = schedule(lane);
    Ok(scheduled.range::<&[u8; 32]>(&from..=&to)?.next().transpose()?.map(|(key, _)| due_of(key.value())))
}

/// Whether a lane has fresh deliveries.
pub(super) fn has_fresh(
    fresh: &impl ReadableTable<&'static [u8; 24], &'static [u8; 16]>,
    lane: WebhookId,
) -> Result<bool, QueueError> {
    let (from, to) = places(lane, Place(0));
    Ok(fresh.range::<&[u8; 24]>(&from..=&to)?.next().transpose()?.is_some())
}

/// Every lane with open deliveries, found by leaping from lane to lane.
pub(super) fn open_lanes(txn: &ReadTransaction) -> Result<Vec<WebhookId>, QueueError> {
    let mut lanes = Vec::new();
    for table in [FRESH, RETRYING] {
        let table = txn.open_table(table)?;
        let mut from = Some([0; 16]);
        while let Some(lane) = from {
            let key = at(WebhookId::from_bytes(lane), Place(0));
            let Some(next) = table.range::<&[u8; 24]>(&key..)?.next().transpose()? else { break };
            let lane = first16(next.0.value());
            lanes.push(WebhookId::from_bytes(lane));
            from = u128::from_be_bytes(lane).checked_add(1).map(u128::to_be_bytes);
        }
    }
    lanes.sort_unstable();
    lanes.dedup();
    Ok(lanes)
}

pub(super) fn damaged(what: &str, error: prost::DecodeError) -> QueueError {
    QueueError::Damaged(format!("{what} cannot be read: {error}"))
}

impl From<redb::Error> for QueueError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Corrupted(reason) => Self::Damaged(reason),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<redb::StorageError> for QueueError {
    fn from(error: redb::StorageError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<redb::TableError> for QueueError {
    fn from(error: redb::TableError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<redb::TransactionError> for QueueError {
    fn from(error: redb::TransactionError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<redb::CommitError> for QueueError {
    fn from(error: redb::CommitError) -> Self {
        redb::Error::from(error).into()
    }
}
