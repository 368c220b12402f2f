//! What the embedded queue keeps of a lane, as one record.

use std::time::Duration;

use bytes::Bytes;
use common::{clock::Time, ids::WebhookId};
use prost::Message;
use redb::ReadableTable;

use super::{QueueError, disk_tables::damaged};
use crate::delivery::Place;

/// What stands of a lane in `LANES`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Row {
    #[prost(string, tag = "1")]
    pub license_code: String,
    #[prost(uint64, tag = "2")]
    pub last_place: u64,
    #[prost(uint64, tag = "3")]
    pub open: u64,
    #[prost(uint64, tag = "4")]
    pub open_bytes: u64,
    /// SUCCEEDED and CANCELLED.
    #[prost(uint64, tag = "5")]
    pub ended: u64,
    #[prost(uint64, tag = "6")]
    pub failed: u64,
    #[prost(bytes = "bytes", tag = "7")]
    pub memo: Bytes,
    /// When the oldest of each history ended, at least (ms); 0: that is to be looked up.
    #[prost(int64, tag = "8")]
    pub oldest_ended: i64,
    #[prost(int64, tag = "9")]
    pub oldest_failed: i64,
}

impl Row {
    pub fn read(
        table: &impl ReadableTable<&'static [u8; 16], &'static [u8]>,
        lane: WebhookId,
    ) -> Result<Option<Self>, QueueError> {
        match table.get(&lane.bytes())? {
            Some(value) => Self::decode(value.value()).map(Some).map_err(|e| damaged("a lane", e)),
            None => Ok(None),
        }
    }

    /// Whether all event ids of the lane were noted so long ago that they are new again.
    pub fn is_forgotten(&self, dedupe_window: Duration, now: Time) -> bool {
        Place(self.last_place).time() + dedupe_window < now
    }

    /// One more delivery SUCCEEDED or was CANCELLED.
    pub fn add_ended(&mut self, now: Time) {
        if self.ended == 0 {
            self.oldest_ended = now.0;
        }
        self.ended += 1;
    }

    /// One more FAILED.
    pub fn add_failed(&mut self, now: Time) {
        if self.failed == 0 {
            self.oldest_failed = now.0;
        }
        self.failed += 1;
    }
}
