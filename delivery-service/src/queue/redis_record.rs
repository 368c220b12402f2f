//! A delivery's record in Redis: a mark of 18 bytes (place 8, bytes of the body 4, kind 1, flags 1,
//! renewals 4, all big-endian), which the scripts read and write, and the head, which they do not.

use bytes::Bytes;
use prost::Message;
use redis::Value;

use super::{
    Page, QueueError, Waiting,
    redis_call::{Answer, damaged},
};
use crate::delivery::{Fault, Head, Place, State};

const MARK: usize = 18;
const SCHEDULED: u8 = 1;
const ENDED: u8 = 2;
const FAILED: u8 = 3;
/// The reader renews the head: a retry was asked for while an attempt was under way.
const RENEW: u8 = 1;

pub(super) struct Record {
    pub head: Head,
    pub place: Place,
    scheduled: bool,
}

impl Record {
    pub fn is_scheduled(&self) -> bool {
        self.scheduled
    }
}

/// The record of one that has SUCCEEDED or was CANCELLED.
pub(super) fn ended(head: &Head, place: Place) -> Vec<u8> {
    let mut record = Vec::with_capacity(MARK + head.encoded_len());
    record.extend(place.0.to_be_bytes());
    record.extend([0; 4]);
    record.extend([ENDED, 0]);
    record.extend(head.renewals.to_be_bytes());
    // Cannot fail: a Vec grows.
    let _ = head.encode(&mut record);
    record
}

/// What, behind a head, makes it one that ended since its lane was full: later fields win.
pub(super) fn full() -> Vec<u8> {
    let mut head = Head::default();
    head.set_state(State::Failed);
    head.set_end_reason(Fault::BacklogFull);
    head.encode_to_vec()
}

/// A new delivery's record but its place, which comes before it: the head knows its body's size, and that it
/// ended at once.
pub(super) fn new(head: &Head, body: &Bytes, failed: Option<Fault>) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut record = Vec::with_capacity(MARK + head.encoded_len() + 16);
    record.extend(size.to_be_bytes());
    record.extend([if failed.is_some() { FAILED } else { 0 }, 0]);
    record.extend([0; 4]);
    // Cannot fail: a Vec grows.
    let _ = if failed.is_none() && head.body_bytes == size {
        head.encode(&mut record)
    } else {
        let mut head = head.clone();
        head.body_bytes = size;
        if let Some(reason) = failed {
            head.set_state(State::Failed);
            head.set_end_reason(reason);
        }
        head.encode(&mut record)
    };
    record
}

pub(super) fn read(record: &[u8]) -> Result<Record, QueueError> {
    let (Some(mark), Some(head)) = (record.get(..MARK), record.get(MARK..)) else {
        return Err(damaged("a delivery's record is cut short"));
    };
    let place = Place(mark[..8].try_into().map_or(0, u64::from_be_bytes));
    let (kind, flags) = (mark[12], mark[13]);
    let mut head =
        Head::decode(head).map_err(|e| QueueError::Damaged(format!("a delivery cannot be read: {e}")))?;
    if flags & RENEW != 0 {
        head.renew();
        head.renewals = mark[14..].try_into().map_or(0, u32::from_be_bytes);
    }
    if kind >= ENDED && head.end_ms == 0 {
        // It ended as it was stored, and its place has that time.
        head.end_ms = place.time().0;
    }
    Ok(Record { head, place, scheduled: kind == SCHEDULED })
}

/// A page as `page.lua` gives it.
pub(super) fn page(answer: Value) -> Result<Page, QueueError> {
    let mut answer = Answer::of(answer)?;
    let read_to = Place(answer.number()?.max(0) as u64);
    let more = answer.number()? == 1;
    let next_scheduled = duration(answer.number()?);
    let mut deliveries = Vec::with_capacity(answer.left() / 2);
    while answer.left() > 0 {
        let record = read(&answer.bytes()?.unwrap_or_default());
        match (record, answer.bytes()?) {
            (Ok(Record { head, place, scheduled }), Some(body)) => {
                deliveries.push(Waiting { head, body: body.into(), place, scheduled });
            }
            // What others wait for goes on without it.
            (Ok(record), None) => {
                tracing::error!(delivery = %record.head.id(), "a waiting delivery has no body")
            }
            (Err(error), _) => tracing::error!(%error, "a waiting delivery cannot be read"),
        }
    }
    Ok(Page { deliveries, read_to, more, next_scheduled })
}

/// Milliseconds, or -1 for none.
pub(super) fn duration(ms: i64) -> Option<std::time::Duration> {
    u64::try_from(ms).ok().map(std::time::Duration::from_millis)
}
